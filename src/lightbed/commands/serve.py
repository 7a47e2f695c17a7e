"""`lightbed serve`: the TestBed page over runs, or over torchvision's trained detectors."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig
from torchvision.models import get_model_weights

from lightbed import build
from lightbed.commands.predict import check_threshold
from lightbed.errors import UserError
from lightbed.folders import run_name
from lightbed.runs.load import Loaded, load_run
from lightbed.runs.log import say
from lightbed.runs.record import Record
from lightbed.tasks.base import Task
from lightbed.transforms.preprocess import Preprocess
from lightbed.web.examples import examples
from lightbed.web.served import Served
from lightbed.web.server import run
from lightbed.web.site import Site
from lightbed.web.uploads import Limits

_MOST = 178  # megapixels
_KEYS = ("run", "run2", "run3", "run4")
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet, as torchvision's detectors were trained


def serve(cfg: DictConfig) -> None:
    """Show the page until it is interrupted.

    Raises:
        UserError: the runs, the weights or the options are wrong, or Gradio is missing.
    """
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)  # they tell their precision on a line of their own
    config = build.resolve(cfg)
    check_options(config)
    loaded, model = load_all(config), config.get("model")
    if model is None and not loaded:
        raise UserError("give run=RUN, a run folder or .ckpt file, or model=mask_rcnn_coco for torchvision's weights")
    own = [one.config for one in loaded.values()]
    build.set_threads(config["threads"] or (own[0]["threads"] if own else torch.get_num_threads()))
    torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(any(one["trainer"]["deterministic"] for one in own))
    shown = titles(loaded)
    served = [
        Served(name, shown[name], one.task, config, one.config["trainer"]["precision"]) for name, one in loaded.items()
    ]
    if model is not None:
        name = str(HydraConfig.get().runtime.choices["model"])
        served.append(Served(unused(name, loaded), f"{name}, trained on COCO", coco(config), config, "32-true"))
    # a cache belongs to the machine; data stays where a run found it unless this command says otherwise
    given = [word.partition("=")[0] for word in HydraConfig.get().overrides.task]
    elsewhere = "paths.data" in given or "LIGHTBED_DATA" in os.environ
    paths = {name: str(config["paths"][name]) for name in (("cache", "data") if elsewhere else ("cache",))}
    found = examples(loaded, paths, config["examples"], trust=config["trust"])
    limits = Limits(config["upload_megabytes"], config["upload_megapixels"])
    with kept(config) as folder:
        site = Site(served, found, limits, config["port"], config["threshold"], config["queue"], folder)
        run(site, browser=config["open"])


def check_options(config: build.Config) -> None:
    """Refuse options that mean nothing.

    Raises:
        UserError: likewise.
    """
    if config["threshold"] is None:
        raise UserError("threshold=null: the slider begins somewhere in 0..1")
    check_threshold(config["threshold"])
    for key, least in (("upload_megabytes", 0), ("upload_megapixels", 0), ("queue", 0)):
        if not isinstance(config[key], int | float) or config[key] <= least:
            raise UserError(f"{key}={config[key]} must be over {least}")
    if config["upload_megapixels"] > _MOST:
        raise UserError(f"upload_megapixels={config['upload_megapixels']} must be at most {_MOST}, Pillow's own limit")
    if not isinstance(config["examples"], int) or config["examples"] < 0:
        raise UserError(f"examples={config['examples']} must be a number from 0 on")
    if not isinstance(config["port"], int) or not 0 <= config["port"] <= 65535:
        raise UserError(f"port={config['port']} must lie in 0..65535")


def load_all(config: build.Config) -> dict[str, Loaded]:
    """The runs of `run`, `run2` ... by the names of their folders.

    Raises:
        UserError: one of them cannot be loaded.
    """
    words: list[str] = []
    for key in _KEYS:
        value = config[key]
        words += [] if value is None else [str(one) for one in value] if isinstance(value, list) else [str(value)]
    found: dict[str, Loaded] = {}
    for word in words:
        loaded = load_run(word, trust=config["trust"])
        found[unused(short_name(loaded), found)] = loaded
    return found


def short_name(loaded: Loaded) -> str:
    """How requests call a run: by its experiment or task, and its model."""
    folder = run_folder(loaded)
    return run_name(folder).split("/")[0] if folder is not None else loaded.checkpoint.stem


def title(loaded: Loaded) -> str:
    """How the page calls a run: what it is, and where it lies."""
    folder = run_folder(loaded)
    return run_name(folder) if folder is not None else loaded.checkpoint.name


def titles(loaded: Mapping[str, Loaded]) -> dict[str, str]:
    """The title of each run, no two alike: the page's switches go by them. Those of one folder name their files."""
    plain = [title(one) for one in loaded.values()]
    found: dict[str, str] = {}
    for (name, one), own in zip(loaded.items(), plain, strict=True):
        told = f"{own}, {one.checkpoint.name}" if plain.count(own) > 1 and own != one.checkpoint.name else own
        found[name] = unused(told, found.values())
    return found


def run_folder(loaded: Loaded) -> Path | None:
    """The folder that a checkpoint was found in, if it is a run's."""
    folder = loaded.checkpoint.absolute().parent.parent.resolve()
    return folder if (folder / "run.json").is_file() else None


def unused(name: str, taken: Any) -> str:
    """`name`, with a number behind it where it is taken."""
    number, free = 1, name
    while free in taken:
        number += 1
        free = f"{name}_{number}"
    return free


def coco(config: build.Config) -> Task:
    """A detector with the weights that torchvision trained on COCO, or with those of a file.

    Raises:
        UserError: the model has no such weights, or they cannot be had.
    """
    model, task = config["model"], config.get("task")
    if not model.get("weights") or not task:
        raise UserError(
            "a model without a run needs a detector's trained weights: model=mask_rcnn_coco, faster_rcnn_coco, "
            "retinanet_coco or fcos_coco, or model.weights=FILE; or give run=RUN"
        )
    classes = list(get_model_weights("maskrcnn_resnet50_fpn").DEFAULT.meta["categories"])[1:]
    facts = {"num_classes": len(classes), "in_channels": 3}
    try:
        network = build.make_model({"model": build.fill_auto(model, facts, "model")})
    except UserError as error:
        if not isinstance(error.__cause__, OSError):
            raise
        told, _, _ = str(error).partition(", or train from scratch")
        raise UserError(f"{told}, or give model.weights=FILE") from error
    node = {key: value for key, value in task.items() if key not in ("name", "metrics")}
    preprocess = Preprocess(3, None, _MEAN, _STD)
    made: Task = build.make(
        node, "task", model=network, num_classes=len(classes), classes=classes, preprocess=preprocess
    )
    return made


@contextmanager
def kept(config: build.Config) -> Iterator[Path | None]:
    """The folder that images and answers are kept in, with a record of its own; None without `save`."""
    if not config["save"]:
        yield None
        return
    with Record.of_job(config, "serve") as record:
        say(f"what is sent is kept in {record.folder}")
        yield record.folder
