"""`lightbed predict`: what a trained model sees in images."""

import json
import os
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.fabric import Fabric
from omegaconf import DictConfig
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from lightbed import build
from lightbed.commands import detections
from lightbed.commands.masks import masked
from lightbed.commands.reading import batches, find_images, of_one_size
from lightbed.data.images import read_image
from lightbed.draw.boxes import confident
from lightbed.draw.figure import INK, save
from lightbed.draw.grid import captioned
from lightbed.draw.masks import class_shares, save_mask
from lightbed.draw.panels import draw
from lightbed.errors import UserError, one_of
from lightbed.runs.device import accelerator
from lightbed.runs.load import Loaded, load_run
from lightbed.runs.log import say, show
from lightbed.runs.record import Record
from lightbed.runs.results import near
from lightbed.runs.settings import check_counts
from lightbed.tasks.base import Task
from lightbed.tasks.detector import Detector
from lightbed.tasks.localizer import Localizer
from lightbed.tasks.neural_style import NeuralStyle
from lightbed.tasks.segmenter import Segmenter
from lightbed.transforms.boxes import clip
from lightbed.transforms.preprocess import Preprocess
from lightbed.types import Prediction

_SHOWN = 10  # predictions in the table, and skipped files named
_LABEL = 0.5  # least score of each of several labels, where no threshold is given


class Seen(NamedTuple):
    """An image file and what the model sees in it."""

    path: Path
    prediction: Prediction
    image: Tensor | None = None  # uint8 (C, h, w), where it is at hand as it is in the file


def predict(cfg: DictConfig) -> None:
    """Write predictions.jsonl and pictures of all images in `source`, and a detector's results.json.

    Raises:
        UserError: the run or the source is wrong, or an image is broken where `broken` is 'error'.
    """
    config = build.resolve(cfg)
    one_of(config["broken"], ("skip", "error"), "broken")
    check_threshold(config["threshold"])
    check_counts(config, "batch_size", "threads")
    sources = config["source"] if isinstance(config["source"], list) else [config["source"]]
    files = [path for source in sources for path in find_images(str(source))]
    loaded = load_run(config["run"], trust=config["trust"])
    if isinstance(loaded.task, NeuralStyle):
        raise UserError(
            f"run={config['run']} made one image and sees nothing in others: look at its pictures/stylised.png"
        )
    own = loaded.config
    if isinstance(loaded.task, Detector) and config["threshold"] is None:
        config["threshold"] = detections.THRESHOLD
    config["threads"] = config["threads"] or own["threads"]
    config["precision"] = config["precision"] or own["trainer"]["precision"]
    config["batch_size"] = config["batch_size"] or own["data"].get("eval_batch_size") or own["data"]["batch_size"]
    build.set_threads(config["threads"])
    torch.set_float32_matmul_precision("high")
    torch.use_deterministic_algorithms(bool(own["trainer"]["deterministic"]))
    with Record.of_job(config, "predict", run=str(loaded.checkpoint)) as record:
        say(f"{loaded.checkpoint} on {len(files):,} images of {config['source']}")
        shown, skipped = write_predictions(config, loaded, files, record.folder)
        done = len(files) - len(skipped)
        record.write(data={"images": done, "skipped": len(skipped), "skipped_files": skipped})
        show_predictions(shown, skipped, done, common_folder(files), record.folder)
        if not done:
            raise UserError(f"source={config['source']}: none of its {len(files)} images can be read: {skipped[0]}")


def check_threshold(threshold: float | None) -> None:
    """Refuse what is no probability."""
    if threshold is not None and not (isinstance(threshold, int | float) and 0 <= threshold <= 1):
        raise UserError(f"threshold={threshold} must lie in 0..1: it is compared with probabilities")


# -- predicting --------------------------------------------------------------------------------------------------------


def write_predictions(
    config: build.Config, loaded: Loaded, files: list[Path], folder: Path
) -> tuple[list[dict[str, Any]], list[str]]:
    """Predict all files, a batch at a time; returns the first lines written and what was skipped, with reasons."""
    skipped: list[str] = []
    shown: list[dict[str, Any]] = []
    names, numbers = picture_names(files), detections.image_ids(files)
    detector = isinstance(loaded.task, Detector)
    coco: Any = detections.results_file(folder / "results.json") if detector else nullcontext()
    with (folder / "predictions.jsonl").open("w", encoding="utf-8") as out, coco as add:
        for seen in predictions(config, loaded, files, skipped):
            line = describe(seen, loaded.task.classes, config["threshold"])
            if detector:
                line["image_id"] = numbers[seen.path]
                add(detections.results(seen.prediction, numbers[seen.path], loaded.category_ids))
            if "mask" in seen.prediction:
                line["mask"] = f"masks/{names[seen.path]}"
                save_mask(seen.prediction["mask"], loaded.task.classes, folder / line["mask"], loaded.task.colours)
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
            if len(shown) < _SHOWN:
                shown.append(line)
            if config["pictures"]:
                picture(seen, line, loaded.task, folder / "pictures" / names[seen.path])
    return shown, skipped


def predictions(config: build.Config, loaded: Loaded, files: list[Path], skipped: list[str]) -> Iterator[Seen]:
    """What the model sees in each file, in order; files that cannot be read are added to `skipped`."""
    fabric: Fabric = build.make(
        {"_target_": "lightning.fabric.Fabric", **accelerator(config["device"])},
        "precision",
        precision=config["precision"],
    )
    preprocess = loaded.task.preprocess or Preprocess()
    model = fabric.setup_module(loaded.task)
    model.mark_forward_method("predict")

    def own(path: Path) -> Tensor:
        return read_image(path, preprocess.channels)

    if isinstance(loaded.task, Segmenter):
        model.mark_forward_method("segment")
        read = batches(files, 1, config["broken"], own, skipped)  # one at a time, for they may be large
        for path, image, prediction in masked(read, loaded.task, model, config["tile"], config["overlap"]):
            yield Seen(path, prediction, image)
        return
    if isinstance(loaded.task, Detector):
        for batch in batches(files, config["batch_size"], config["broken"], own, skipped):
            yield from _detected(batch, fabric, model, preprocess, config["threshold"])
        return
    if isinstance(loaded.task, Localizer):
        for batch in batches(files, config["batch_size"], config["broken"], own, skipped):
            yield from _localized(batch, fabric, model, preprocess)
        return
    for batch in batches(
        files, config["batch_size"], config["broken"], lambda path: preprocess.fit(own(path)), skipped
    ):
        for group in of_one_size(batch):
            images = preprocess(fabric.to_device(torch.stack([image for _, image in group])))
            for (path, _), prediction in zip(group, model.predict(images), strict=True):
                yield Seen(path, prediction)


def _detected(
    batch: list[tuple[Path, Tensor]], fabric: Fabric, model: Any, preprocess: Preprocess, threshold: float
) -> Iterator[Seen]:
    """Boxes and masks that score `threshold` or more, at the images' own sizes."""
    images = [preprocess(fabric.to_device(preprocess.fit(image))) for _, image in batch]
    for (path, image), prediction in zip(batch, model.predict(images), strict=True):
        called = confident(prediction, threshold)
        yield Seen(path, detections.at_own_size(called, preprocess, (image.shape[-2], image.shape[-1])))


def _localized(batch: list[tuple[Path, Tensor]], fabric: Fabric, model: Any, preprocess: Preprocess) -> Iterator[Seen]:
    """Class and box of the one object, at the images' own sizes."""
    images = preprocess(fabric.to_device(torch.stack([preprocess.fit(image) for _, image in batch])))
    for (path, image), seen in zip(batch, model.predict(images), strict=True):
        size = (image.shape[-2], image.shape[-1])
        box = clip(preprocess.unfit_boxes(seen["box"][None].cpu(), size), size)[0]
        yield Seen(path, Prediction(label=seen["label"].cpu(), scores=seen["scores"].cpu(), box=box))


# -- what is written ---------------------------------------------------------------------------------------------------


def describe(seen: Seen, classes: list[str], threshold: float | None) -> dict[str, Any]:
    """A line of predictions.jsonl: path, what is called, and the scores of all classes by name.

    One class an image: `label`, `index` and `score`; label and index are null where the score is under the threshold.
    A localizer adds `box`, xyxy in pixels.
    Several labels an image: `labels`, those whose score is over the threshold. A class for each pixel: `shares`, the
    part of the image that each class has, and `mask`, the file. Objects: see `detections.objects`.
    """
    if "mask" in seen.prediction:
        return {"path": str(seen.path), "shares": class_shares(seen.prediction["mask"], classes)}
    if "boxes" in seen.prediction:
        return {"path": str(seen.path), "objects": detections.objects(seen.prediction, classes)}
    # the fewest digits that give the same float32 back
    scores = [float(str(np.float32(score))) for score in seen.prediction["scores"].tolist()]
    named = dict(zip(classes, scores, strict=True))
    if seen.prediction["label"].ndim:
        least = _LABEL if threshold is None else threshold
        return {"path": str(seen.path), "labels": [name for name in classes if named[name] > least], "scores": named}
    index = int(seen.prediction["label"])
    called = threshold is None or scores[index] >= threshold
    corners = seen.prediction["box"].tolist() if "box" in seen.prediction else []
    return {
        "path": str(seen.path),
        "label": classes[index] if called else None,
        "index": index if called else None,
        "score": scores[index],
        **({"box": [float(str(np.float32(value))) for value in corners]} if corners else {}),
        "scores": named,
    }


def picture(seen: Seen, line: dict[str, Any], task: Task, target: Path) -> None:
    """The image with its prediction above it, in its own colours and size; tiny ones are enlarged."""
    prediction = seen.prediction
    if "labels" in line:
        called = torch.tensor([name in line["labels"] for name in task.classes])
        prediction = Prediction(label=called, scores=prediction["scores"])
    whole = seen.image if seen.image is not None and seen.image.shape[0] == 3 else read_image(seen.path)
    panel = draw(whole, prediction, None, task.classes, task.colours)
    if line.get("label", "") is None:
        panel = panel._replace(title=f"unsure: {panel.title}", color=INK)
    drawn = captioned(panel)
    del panel  # of a large image there need not be two while it is written
    save(drawn, target)


def common_folder(files: list[Path]) -> Path:
    """The innermost folder that all files lie in."""
    return Path(os.path.commonpath([path.absolute().parent for path in files]))


def picture_names(files: list[Path]) -> dict[Path, str]:
    """A picture's path for each file: its own below the folder that all have in common, as PNG, each another one."""
    common = common_folder(files)
    names: dict[Path, str] = {}
    taken: set[str] = set()
    for path in files:
        base = name = str(path.absolute().relative_to(common).with_suffix(""))
        number = 1
        while name.lower() in taken:
            number += 1
            name = f"{base}_{number}"
        taken.add(name.lower())
        names[path] = f"{name}.png"
    return names


def show_predictions(shown: list[dict[str, Any]], skipped: list[str], done: int, common: Path, folder: Path) -> None:
    """Print the first predictions by their paths below `common`, what was skipped, and where everything is."""
    if shown:
        title = f"predictions of {done:,} images"
        table = Table(title=title, title_justify="left", title_style="bold", box=SIMPLE_HEAD, show_edge=False)
        told = "share" if "shares" in shown[0] else "score"
        for name in ("image", "class", told):
            table.add_column(name, justify="right" if name == told else "left", overflow="fold")
        for line in shown:
            path = str(Path(line["path"]).absolute().relative_to(common))
            if "shares" in line:
                largest = list(line["shares"].items())[:3]
                table.add_row(path, ", ".join(n for n, _ in largest), ", ".join(f"{s:.1%}" for _, s in largest))
            elif "objects" in line:
                table.add_row(path, *detections.cells(line))
            elif "labels" in line:
                scores = [f"{line['scores'][name]:.3f}" for name in line["labels"]]
                table.add_row(path, ", ".join(line["labels"]) or "none", ", ".join(scores))
            else:
                table.add_row(path, line["label"] or "unsure", f"{line['score']:.3f}")
        if done > len(shown):
            table.add_row(f"... and {done - len(shown):,} more", "", "")
        show(table)
    for reason in skipped[:_SHOWN]:
        say(f"skipped: {reason}")
    if len(skipped) > _SHOWN:
        say(f"skipped: {len(skipped) - _SHOWN} more, see run.json")
    say(f"  {near(folder / 'predictions.jsonl')}")
    if (folder / "results.json").is_file():
        say(f"  {near(folder / 'results.json')}")
    if (folder / "masks").is_dir():
        say(f"  {folder / 'masks'}")
    if any((folder / "pictures").iterdir()):
        say(f"  {near(folder / 'pictures')}")
