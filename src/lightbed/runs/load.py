"""From a run folder or a checkpoint file back to a task that predicts and tests the same numbers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from lightbed.build import Config, make_task
from lightbed.data.base import DataModule
from lightbed.errors import UserError
from lightbed.runs.checkpoint import read_checkpoint
from lightbed.runs.trust import check_targets
from lightbed.tasks.base import Task
from lightbed.tasks.segmenter import Segmenter
from lightbed.transforms.preprocess import Preprocess

# What a checkpoint's config must say for its model to be used, those before their parts
_NEEDED: dict[str, Any] = {
    **dict.fromkeys(("model", "task", "data", "trainer", "paths"), dict),
    "threads": int,
    "task.metrics": dict | None,
    "trainer.precision": str | int,
    "trainer.deterministic": bool | str | None,
    "trainer.benchmark": bool | None,
    "data.batch_size": int,
    "data.num_workers": int,
}
_LONGEST = 150  # characters of each kind of difference that a message names


class Loaded(NamedTuple):
    """A task in evaluation mode with its weights, the config that it was built from, and its checkpoint file."""

    task: Task
    config: Config
    checkpoint: Path
    category_ids: list[Any] | None = None  # COCO's id of each class, where the data has them


def find_checkpoint(run: str | Path) -> Path:
    """The checkpoint of RUN: the file itself, or of a folder best.ckpt, else last.ckpt.

    Raises:
        UserError: there is none.
    """
    path = Path(str(run)).expanduser()  # a folder's name may be a number to YAML
    if path.is_file():
        return path
    if not path.exists():
        raise UserError(f"run={run} does not exist: give a run folder or a .ckpt file")
    for name in ("best", "last"):
        if (file := path / "checkpoints" / f"{name}.ckpt").is_file():
            return file
    jobs = sorted(child.name for child in path.iterdir() if (child / "checkpoints").is_dir())
    hint = (
        f"it is a multirun; choose one of its jobs: {', '.join(jobs[:5])}" if jobs else "it has no checkpoints/*.ckpt"
    )
    raise UserError(f"run={run} is no finished run: {hint}")


def load_run(run: str | Path, *, trust: bool = False) -> Loaded:
    """Load RUN's task from its checkpoint file alone.

    Args:
        run: a run folder or a checkpoint file.
        trust: build classes from other packages than Lightbed, torch, torchvision, torchmetrics and lightning, too;
            their code runs, so only for files that you trust.

    Raises:
        UserError: there is no checkpoint, it is damaged, or it names a target that is not trusted.
    """
    path = find_checkpoint(run)
    content = read_checkpoint(path)
    card = content["lightbed"]
    config = read_config(card["config_json"], path)
    if not trust:
        check_targets({key: config[key] for key in ("model", "task")}, str(path))
    try:
        preprocess = Preprocess(**card["preprocess"])
    except UserError:
        raise
    except (TypeError, ValueError) as error:
        raise UserError(f"{path} says of its preprocessing what this Lightbed does not know ({error})") from error
    task = make_task(config, card["classes"], preprocess, training=False)
    kind = type(task).__name__.lower()
    if card.get("task") != kind:
        raise UserError(
            f"{path} is of a {card.get('task')}, but its own config builds a {kind}: it was changed by hand"
        )
    task.colours = card.get("colours") or {}
    if isinstance(task, Segmenter):
        task.largest = _sides(card.get("largest"))
    count, names = config["model"].get("num_classes"), len(card["classes"])
    if isinstance(count, int) and count != names and config["task"].get("kind") != "binary":
        raise UserError(f"{path} names {names} classes, but the model of its own config has {count}")
    load_weights(task, content["state_dict"], path)
    return Loaded(task.eval(), config, path, card.get("category_ids"))


def _sides(told: Any) -> tuple[int, int] | None:
    """(height, width) as a checkpoint tells it; None where it does not, as those of before did."""
    if isinstance(told, list) and len(told) == 2 and all(isinstance(side, int) and side > 0 for side in told):
        return told[0], told[1]
    return None


def read_config(text: Any, path: Path) -> Config:
    """The config in a checkpoint's card.

    Raises:
        UserError: it is none.
    """
    try:
        config = json.loads(text)
    except (TypeError, ValueError) as error:
        raise UserError(f"{path}: its config cannot be read ({error})") from error
    missing = [key for key in _NEEDED if "." not in key and (not isinstance(config, dict) or key not in config)]
    if missing:
        raise UserError(f"{path}: its config lacks {', '.join(missing)}")
    for key, kind in _NEEDED.items():
        *nodes, last = key.split(".")
        node = config
        for name in nodes:
            node = node[name]
        if last not in node:
            raise UserError(f"{path}: its config lacks {key}")
        if not isinstance(node[last], kind):
            raise UserError(f"{path}: its config has {key}={str(node[last])[:50]}")
    return config  # type: ignore[no-any-return]


def own_data(loaded: Loaded, paths: Mapping[str, str], *, trust: bool = False) -> Config:
    """The data config that a run was trained on; training's per-sample transform is left out.

    Args:
        loaded: the run.
        paths: `data` and `cache`, where they now lie elsewhere than in the run's config: the data's folders below the
            old ones are looked for below these.
        trust: see `load_run`; without it only Lightbed's own data sets are opened.

    Raises:
        UserError: the data set's class is not trusted.
    """
    data = {**loaded.config["data"], "transform": None}
    if not trust:
        check_targets({"data": data}, str(loaded.checkpoint), (DataModule,))
    own = loaded.config["paths"]
    data = moved(data, {own[name]: str(new) for name, new in paths.items() if name in own})
    # nothing is ever written where a file says
    return {**data, "cache_dir": str(paths["cache"])} if "cache" in paths and "cache_dir" in data else data


def moved(value: Any, folders: Mapping[str, str]) -> Any:
    """A copy of a config in which each path at or below one of `folders` stands at or below its new place."""
    if isinstance(value, Mapping):
        return {key: moved(item, folders) for key, item in value.items()}
    if isinstance(value, list):
        return [moved(item, folders) for item in value]
    if isinstance(value, str):
        for old in sorted(folders, key=len, reverse=True):  # the innermost folder decides
            if value == old or value.startswith(old.rstrip("/") + "/"):
                return folders[old].rstrip("/") + value[len(old.rstrip("/")) :]
    return value


def load_weights(task: Task, weights: dict[str, Any], path: Path) -> None:
    """Load a state dict that must fit the task exactly.

    Raises:
        UserError: names or shapes differ; the first difference of each kind is named.
    """
    try:
        task.load_state_dict(weights)
    except RuntimeError as error:
        lines = (line.strip() for line in str(error).splitlines()[1:3])
        detail = " ".join(line if len(line) <= _LONGEST else f"{line[:_LONGEST]} ..." for line in lines)
        raise UserError(f"the weights in {path} do not fit the model of its config: {detail}") from error
