"""`lightbed rerun`: a training again from its folder alone, and whether it gave the same bits."""

import os
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from lightbed import build
from lightbed.commands import train
from lightbed.errors import RunError, UserError
from lightbed.runs.checkpoint import read_checkpoint
from lightbed.runs.differences import compare_results, surroundings
from lightbed.runs.files import read_config, read_overrides, read_record
from lightbed.runs.load import moved
from lightbed.runs.log import say
from lightbed.runs.memory import with_sizes
from lightbed.runs.places import check_download, with_caches
from lightbed.runs.record import Record, command_line, point_latest
from lightbed.runs.results import near
from lightbed.runs.trust import check_config


def rerun(cfg: DictConfig) -> None:
    """Repeat the training in `run`, and say whether its metrics and weights are the same to the bit.

    Raises:
        UserError: the folder is no finished training, has a damaged checkpoint, or names a class that is not trusted.
        RunError: the repetition gave something else.
    """
    command = build.resolve(cfg)
    folder = Path(str(command["run"])).expanduser()
    then = finished_record(folder)
    old = read_config(folder)
    if not command["trust"]:
        check_config(old, str(folder / "config.yaml"))
    config = first_settings(placed(old, command), then)
    if not command["trust"]:
        check_download(config["data"], str(command["paths"]["data"]), str(folder / "config.yaml"))
    for file in sorted((folder / "checkpoints").glob("*.ckpt")):
        read_checkpoint(file)  # what cannot be compared is told before the training and not after it
    job = HydraConfig.get()
    new = Path(job.runtime.output_dir)
    words = read_overrides(folder)
    more = {"run": str(folder.absolute()), "choices": then.get("choices") or {}}
    with Record(new, command_line(), words, config, "rerun", **more) as record:
        point_latest(new, Path(command["paths"]["outputs"]).expanduser())
        say(f"rerun of {near(folder)} in {near(new)}")
        prepare_data(config, record)
        tell_surroundings(folder, new)
        train.run(config, record)
        if not record.writes:  # a further process of the run
            return
        outcome = compare_results(folder, new)
        say(outcome.text if outcome.same else f"different: {outcome.text}")
        if not outcome.same and not tell_surroundings(folder, new):
            say("nothing else is known to be different: code, versions, machine and data are the same")
        record.write(identical=outcome.same, compared=outcome.text)
    if not outcome.same:
        raise RunError(f"{near(new)} differs from {near(folder)}: {outcome.text}")


def tell_surroundings(then: Path, now: Path) -> bool:
    """Say what is different around the run now; returns whether anything is."""
    lines = surroundings(then, now)
    for line in ["different now:", *(f"  {line}" for line in lines)] if lines else []:
        say(line)
    return bool(lines)


def prepare_data(config: build.Config, record: Record) -> None:
    """Open the data for its fingerprint, so that a change of it is told before the training and not hours later."""
    build.set_threads(config["threads"])
    data = build.make_data(config)
    contents = data.contents()
    record.write_data({**train.describe(data), "fingerprint": contents.summary()}, contents.hashes)


def finished_record(folder: Path) -> dict[str, Any]:
    """run.json of a finished training.

    Raises:
        UserError: it is none.
    """
    if folder.is_file():
        raise UserError(f"run={folder} is a file; rerun repeats a training from its folder")
    if not (folder / "run.json").is_file():
        what = "holds no run.json" if folder.is_dir() else "does not exist"
        raise UserError(f"run={folder} {what}: give the folder of a finished training")
    content = read_record(folder)
    if content.get("kind") not in ("train", "rerun"):
        raise UserError(f"run={folder} is no training, which alone can be repeated; its run.json says what it is")
    if content.get("status") != "done":
        raise UserError(f"run={folder} is {content.get('status')}, not done: there is no whole result to compare with")
    return content


def placed(old: build.Config, command: build.Config) -> build.Config:
    """The run's configuration with this command's places: outputs and cache, and the data's where it is given anew."""
    words = list(HydraConfig.get().overrides.task)
    elsewhere = "LIGHTBED_DATA" in os.environ or any(word.startswith("paths.data=") for word in words)
    names = ("outputs", "cache", "data") if elsewhere else ("outputs", "cache")
    paths = {name: str(command["paths"][name]) for name in names}
    moved_to = {old["paths"][name]: path for name, path in paths.items() if name in old["paths"]}
    data = {**moved(old["data"], moved_to), "cache_dir": paths["cache"]}
    # some keep what they make of the data in the cache
    model = with_caches(moved(old["model"], moved_to), lambda _: paths["cache"])
    return {**old, "paths": {**old["paths"], **paths}, "data": data, "model": model, "test": old.get("test", "auto")}


def first_settings(config: build.Config, record: dict[str, Any]) -> build.Config:
    """The configuration that the run began with: one that ran out of memory ended with smaller batches."""
    halved = record.get("out_of_memory")
    return with_sizes(config, halved[0]["before"]) if halved else config
