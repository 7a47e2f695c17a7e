"""`lightbed test`: the figures of a trained model, on its own data or on another data set."""

import os
from pathlib import Path
from typing import Any

import lightning.pytorch as L
import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightbed import build
from lightbed.data.base import DataModule
from lightbed.data.relabel import match_classes
from lightbed.errors import UserError, one_of
from lightbed.figures import spelt
from lightbed.runs.device import accelerator
from lightbed.runs.load import Loaded, load_run, own_data
from lightbed.runs.log import say
from lightbed.runs.places import check_download
from lightbed.runs.record import Record, write_text
from lightbed.runs.results import near, show_results
from lightbed.runs.settings import check_counts
from lightbed.tasks.base import Task

_PREPROCESSING = ("channels", "image_size", "resize", "mean", "std")
_FROM = {"batch_size": "batch_size", "eval_batch_size": "batch_size", "num_workers": "num_workers"}


def test(cfg: DictConfig) -> dict[str, float]:
    """Evaluate `run` on `split`; returns the metrics by name.

    Raises:
        UserError: the run, the data or their classes are wrong.
    """
    config = build.resolve(cfg)
    words = list(HydraConfig.get().overrides.task)
    check_counts(config, "batch_size", "threads")
    loaded = load_run(config["run"], trust=config["trust"])
    config["data"] = data_config(config, loaded, words)
    config["threads"] = config["threads"] or loaded.config["threads"]
    config["precision"] = config["precision"] or loaded.config["trainer"]["precision"]
    build.set_threads(config["threads"])
    torch.set_float32_matmul_precision("high")
    with Record.of_job(config, "test", run=str(loaded.checkpoint)) as record:
        data = build.make_data(config)
        if match_classes(data, loaded.task.classes, config["classes"]):
            say("the data has the model's classes in another order; its labels are renumbered by name")
        split = choose_split(config["split"], data)
        images = len(data.splits[split])
        faults = {"skipped": len(data.skipped), "label_faults": data.label_faults}
        record.write(data={"split": split, "images": images, "classes": data.classes, **faults})
        say(f"{loaded.checkpoint} on {images:,} images of {type(data).__name__} ({split})")
        metrics = evaluate(config, loaded, data, split, record.folder)
        write_text(record.folder / "metrics.json", spelt(metrics))
        show_results(record.folder, metrics, loaded.task, Path(config["paths"]["outputs"]))
        say(f"  {near(record.folder / 'metrics.json')}")
    return metrics


def data_config(config: build.Config, loaded: Loaded, words: list[str]) -> build.Config:
    """The data to evaluate on: the run's own or another set, read as the model's images were.

    Args:
        config: of this command.
        loaded: the run.
        words: overrides of this command line.
    """
    given = {word.split("=")[0] for word in words}
    if config.get("data") is None:
        # a cache belongs to the machine; data stays where the run found it unless this command says otherwise
        elsewhere = "paths.data" in given or "LIGHTBED_DATA" in os.environ
        names = ("cache", "data") if elsewhere else ("cache",)
        data = own_data(loaded, {name: config["paths"][name] for name in names}, trust=config["trust"])
        if not config["trust"]:
            check_download(data, str(config["paths"]["data"]), str(loaded.checkpoint))
    else:
        data = {**config["data"], **as_trained(loaded.task, given)}
    data = build.with_targets(data, loaded.config["task"])
    own = loaded.config["data"]
    data["eval_batch_size"] = config["batch_size"] or own.get("eval_batch_size") or own["batch_size"]
    data["num_workers"] = own["num_workers"] if config["num_workers"] is None else config["num_workers"]
    return data


def as_trained(task: Task, given: set[str]) -> dict[str, Any]:
    """The model's preprocessing, as a data config has it; it is part of the model, so a command may not change it."""
    if task.preprocess is None:
        return {}
    preprocessing = task.preprocess.describe()
    fixed = {f"data.{name}" for name in _PREPROCESSING if preprocessing["size" if name == "image_size" else name]}
    if changed := sorted(given & fixed):
        raise UserError(f"{changed[0]} belongs to the model and is taken from its checkpoint; leave it out")
    if changed := sorted(given & {f"data.{name}" for name in _FROM}):
        raise UserError(f"{changed[0]}: a test says it without the group; give {_FROM[changed[0][5:]]}=...")
    size = preprocessing.pop("size")
    return preprocessing | ({"image_size": size} if size else {})


def choose_split(split: str, data: DataModule) -> str:
    """The split to evaluate on, one that the data has."""
    one_of(split, ("auto", "test", "val", "train"), "split")
    if split == "auto":
        split = "test" if "test" in data.splits else "val"
    if split not in data.splits:
        raise UserError(f"split={split}: {type(data).__name__} has only {', '.join(data.splits)}")
    return split


def evaluate(config: build.Config, loaded: Loaded, data: DataModule, split: str, folder: Path) -> dict[str, float]:
    """Metrics of the task on a split, named `split/...`; pictures go into `folder`."""
    own = loaded.config["trainer"]
    trainer: L.Trainer = build.make(
        {"_target_": "lightning.pytorch.Trainer", **accelerator(config["device"]), "precision": config["precision"]},
        "precision",
        deterministic=own["deterministic"],
        benchmark=own["benchmark"],
        default_root_dir=str(folder),
        callbacks=[
            build.make(settings, f"callbacks.{name}")
            for name, settings in config["callbacks"].items()
            if settings is not None
        ],
        logger=False,
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    found = trainer.test(loaded.task, dataloaders=data.eval_loader(split), verbose=False)
    return {f"{split}/{name.partition('/')[2]}": float(value) for name, value in found[0].items()}
