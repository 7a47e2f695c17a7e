"""Images of a run's own test split, for who has none at hand."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from torch import Tensor

from lightbed import build
from lightbed.chance import permutation
from lightbed.data.base import DataModule
from lightbed.data.images import read_image
from lightbed.errors import UserError
from lightbed.runs.load import Loaded, own_data
from lightbed.runs.log import say


class Example(NamedTuple):
    """An image held in memory: nothing of the data's folder is ever served."""

    name: str
    image: Tensor  # uint8 (3, h, w)


def examples(runs: Mapping[str, Loaded], paths: Mapping[str, str], count: int, *, trust: bool) -> list[Example]:
    """`count` test images of each data set that the runs were trained on; a set that is not here is told and left out.

    Args:
        runs: by name.
        paths: `cache` and, where it lies elsewhere than a run says, `data`: see `runs.load.own_data`.
        count: 0 for none.
        trust: see `runs.load.load_run`.
    """
    found: list[Example] = []
    opened: list[Any] = []
    for name, loaded in runs.items() if count else ():
        try:
            config = own_data(loaded, paths, trust=trust)
            kind = {key: config.get(key) for key in ("_target_", "root", "image_size", "split_seed")}
            if kind in opened:
                continue
            found += _drawn(build.with_targets(config, loaded.config["task"]), count)
            opened.append(kind)
        except (UserError, OSError) as error:
            say(f"no examples of {name}: {error}")
    return found


def _drawn(config: build.Config, count: int) -> list[Example]:
    """Random images of a data set's test split, the same each time; its files are never fetched."""
    data: DataModule = build.make({**config, "transform": None}, "data")
    data.setup()
    split = next(name for name in ("test", "val", "train") if name in data.splits)
    source = data.splits[split]
    chosen = permutation(len(source), 0, "examples", split)[:count].sort().values.tolist()
    return [Example(f"{type(data).__name__}, {split} image {i}", _image(*source[i])) for i in chosen]


def _image(image: Tensor, target: Any) -> Tensor:
    """A sample's image as its file has it, where there is a file: training scales it, and the page shows it whole."""
    if "path" in target:
        return read_image(target["path"])
    return image.as_subclass(Tensor).expand(3, -1, -1).contiguous()
