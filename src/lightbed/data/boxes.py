"""Images with boxes, labels and perhaps instance masks, whatever format their label files have."""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchvision import tv_tensors

from lightbed.data.annotations import Annotated, Annotations, Fault, settle, summary, without_twins
from lightbed.data.base import Loading
from lightbed.data.folder import ImageFolder
from lightbed.data.images import read_image
from lightbed.data.shapes import draw_masks
from lightbed.data.sized import SizedDecoder, bytes_of
from lightbed.data.source import Batch, Sample, Source, Subset, listed, stack
from lightbed.data.upright import as_shown
from lightbed.errors import UserError, one_of
from lightbed.runs.log import say
from lightbed.transforms.boxes import areas_of, clip, tidy
from lightbed.transforms.preprocess import Preprocess

_log = logging.getLogger("lightbed")


class BoxData(ImageFolder):
    """Images with any number of objects; a subclass says what its label files hold (`find`).

    A batch is a list of images uint8 (C, h, w) and a list of targets. All images are read once before training
    starts, so that broken ones show then, and kept decoded as in `ImageFolder`, also in their own sizes. What is wrong
    in label files never stops a run: it is told once, each line in log.txt, and counted in the run's record.

    Args:
        root: the folder.
        classes: names of the classes to learn, in this order; None for all. Objects of others are left out.
        objects: 'all' of an image, or 'largest', the one with the largest box: a target is then `label` and `box`, a
            batch is stacked, and images without objects are left out.
        masks: read instance masks, where the format has them; false takes less time.
        validation_as: the split that given validation images become: 'val', or 'test' where there are none for that.
        common: the arguments of `ImageFolder` but for its labels.

    Raises:
        UserError: there are no images or no labels, or an image cannot be read.
    """

    holds: tuple[str, ...] = ("boxes", "labels")

    def __init__(
        self,
        root: str | Path,
        *,
        classes: Sequence[str] | None = None,
        objects: str = "all",
        masks: bool = True,
        validation_as: str = "val",
        **common: Any,
    ) -> None:
        super().__init__(root, **common)
        self.wanted = None if classes is None else [str(name) for name in classes]
        self.objects = one_of(objects, ("all", "largest"), "data.objects")
        self.masks = masks and objects == "all"
        if objects == "largest" and self.preprocess.size is None:
            raise UserError("data.image_size=null: with one object an image, images are stacked: give [height,width]")
        self.validation_as = one_of(validation_as, ("val", "test"), "data.validation_as")
        self.label_files: list[Path] = []

    # -- what a subclass says ------------------------------------------------------------------------------------------

    def find_objects(self) -> Annotations:
        """The images with their objects, as the label files have them."""
        raise NotImplementedError

    def absent(self) -> str:
        """What to say where `root` is no folder."""
        return f"data.root={self.root} {'is a file, not a folder' if self.root.exists() else 'does not exist'}"

    # ------------------------------------------------------------------------------------------------------------------

    def fingerprint_files(self) -> list[Path]:
        return [*self.label_files, *(self.root / file.path for file in self.files)]

    def collate(self, samples: list[Sample]) -> Batch:
        return (listed if self.objects == "all" else stack)(samples)

    def load(self) -> Loading:
        if not self.root.is_dir():
            raise UserError(self.absent())
        found = self._chosen(self.find_objects())
        found.images, twice = without_twins(found.images)
        found.faults += twice
        if not found.images:
            missing = f", e.g. {found.faults[0]}" if found.faults else ""
            raise UserError(f"data.root={self.root}: no image has labels{missing}")
        self.files, self.label_files = [one.image for one in found.images], found.files
        if not found.classes:
            first = f": {found.faults[0]}" if found.faults else ""
            raise UserError(f"data.root={self.root}: no object is labelled in its {len(found.images):,} images{first}")
        masks = self.masks and any(shape is not None for one in found.images for shape in one.shapes)
        self.holds = (*BoxData.holds, "masks") if masks else BoxData.holds
        if self.objects == "largest":
            self.holds = ("label", "box")
        source, splits, skipped, faults = self._open_images(found.images, masks=masks)
        faults = [*found.faults, *faults]
        self._report(faults)
        if not splits or not any((~one.crowd).any() for one in source.images):
            self._refuse(source, faults, skipped)
        parts: dict[str, Source] = {}
        for name in dict.fromkeys(splits):
            chosen = [place for place, split in enumerate(splits) if split == name]
            parts[name] = Subset(source, torch.tensor(chosen, dtype=torch.int64))
        return Loading(parts, found.classes, skipped, summary(faults), found.ids)

    def _refuse(self, source: "BoxSource", faults: list[Fault], skipped: list[str]) -> None:
        """Say why there is nothing to learn from."""
        if count := sum(len(one.labels) for one in source.images):
            why = (
                f"all of its {count:,} objects are crowds or difficult: data=voc data.difficult=learn learns the latter"
            )
        else:
            why = f"none of its {'objects' if len(source) else 'images'} can be used"
            why += f", e.g. {[*faults, *skipped][0]}" if faults or skipped else ": there are no labels of them"
        raise UserError(f"data.root={self.root}: {why}")

    def _chosen(self, found: Annotations) -> Annotations:
        """With the classes that are asked for, and the validation images in their split."""
        if self.validation_as == "test" and not any(one.split == "test" for one in found.images):
            for one in found.images:
                one.split = "test" if one.split == "val" else one.split
        if self.wanted is None:
            return found
        unknown = [name for name in self.wanted if name not in found.classes]
        if unknown:
            known = ", ".join(found.classes)
            raise UserError(f"data.classes: no object is labelled {unknown[0]}; there is {known}")
        numbers = np.full(len(found.classes) + 1, -1)
        for number, name in enumerate(self.wanted):
            numbers[found.classes.index(name)] = number
        images = []
        for one in found.images:
            one.labels = numbers[one.labels]
            images.append(one.chosen(one.labels >= 0))
        left_out = sum(len(one.labels) for one in found.images) - sum(len(one.labels) for one in images)
        if left_out:
            say(f"{left_out:,} objects of other classes than data.classes={self.wanted} are left out")
        ids = None if found.ids is None else [found.ids[found.classes.index(name)] for name in self.wanted]
        return Annotations(images, list(self.wanted), found.files, found.faults, ids)

    def _open_images(
        self, images: list[Annotated], *, masks: bool
    ) -> tuple["BoxSource", list[str], list[str], list[Fault]]:
        """All images that can be read as one source, their splits, what was wrong with the others, and with labels."""
        store = self.cache and self._fits(len(self.files))
        decoder = SizedDecoder(self.root, self.files, self.preprocess, self.cache_dir, store=store)
        decoded, broken = decoder.decode()
        self._tell(list(broken.values()))
        whole = [index for index in range(len(images)) if index not in broken]
        kept: list[Annotated] = []
        rows: list[int] = []
        faults: list[Fault] = []
        empty = 0
        for row, index in enumerate(whole):
            one, size = images[index], decoder.sizes[images[index].image.path]
            one, turned = as_shown(self.root, one, size)
            settled, wrong = settle(one, size, masks=masks)
            faults += turned + wrong
            if settled is not None and self.objects == "largest":
                settled = largest(settled, self.preprocess)
                empty += settled is None
            if settled is not None:
                kept.append(settled)
                rows.append(row)
        pixels = None if decoded is None else (decoded, rows)
        kind = BoxSource if self.objects == "all" else LargestSource
        source = kind(self.root, kept, self.preprocess, pixels, masks=masks)
        if empty:
            say(f"{empty:,} images without an object are left out")
        return source, [one.split for one in kept], list(broken.values()), faults

    def _fits(self, count: int) -> bool:
        gigabytes = bytes_of(self.root, self.files, self.preprocess) / 1e9
        return self._small_enough(count, gigabytes)

    def _report(self, faults: list[Fault]) -> None:
        for fault in faults:
            _log.warning("label fault: %s", fault)
        if faults:
            counted = "; ".join(f"{count:,} {kind}" for kind, count in summary(faults).items())
            say(f"label files have faults: {counted}; log.txt names each")

    def class_counts(self) -> Tensor:
        """Objects of each class in the training split, crowds left out, int64 (K,)."""
        labels = [target["labels"] for target in targets_of(self._source("train"))]
        return torch.bincount(torch.cat(labels), minlength=len(self.classes))


class BoxSource:
    """Images with their objects; pixels from memory or from files, masks drawn when they are asked for.

    Args:
        root: folder of the images.
        images: what is known of each.
        preprocess: says channels and size.
        pixels: the decoded images, and the row of each of `images` among them; None: they are read from their files.
        masks: give masks.
    """

    batched = False

    def __init__(
        self,
        root: Path,
        images: list[Annotated],
        preprocess: Preprocess,
        pixels: tuple[Sequence[np.ndarray], list[int]] | None,
        *,
        masks: bool,
    ) -> None:
        self.images, self.preprocess, self.pixels, self.masks = images, preprocess, pixels, masks
        self.paths = [str(root / one.image.path) for one in images]
        self.crowd = any(one.crowd.any() for one in images)
        self.areas = any(np.isfinite(one.areas).any() for one in images)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Sample:
        if self.pixels is None:
            image = self.preprocess.fit(read_image(self.paths[index], self.preprocess.channels))
        else:
            decoded, rows = self.pixels
            image = torch.from_numpy(np.array(decoded[rows[index]]))
        return image, self._target(index)

    def _target(self, index: int) -> Any:
        one = self.images[index]
        own = one.size or (1, 1)
        size = self.preprocess.size or own
        given = torch.from_numpy(one.boxes)
        boxes = self.preprocess.fit_boxes(given, own)
        target: dict[str, Any] = {"boxes": boxes.float(), "labels": torch.from_numpy(one.labels.copy())}
        if self.masks:
            target["masks"] = self._masks(one, own, boxes)
        if self.crowd:
            target["crowd"] = torch.from_numpy(one.crowd.copy())
        if self.areas:
            scale = areas_of(boxes) / areas_of(given).clamp(min=1e-9)
            areas = torch.from_numpy(one.areas) * scale
            target["area"] = torch.where(areas.isnan(), areas_of(boxes), areas).float()
        target = tidy(target, size)
        target["boxes"] = tv_tensors.BoundingBoxes(target["boxes"], format="XYXY", canvas_size=size)
        if self.masks:
            target["masks"] = tv_tensors.Mask(target["masks"])
        return {**target, "path": self.paths[index]}

    def _masks(self, one: Annotated, own: tuple[int, int], boxes: Tensor) -> Tensor:
        """Masks bool (n, H, W); one too thin to own the centre of a pixel has those that its box touches."""
        masks = draw_masks([shape for shape in one.shapes if shape is not None], own)
        if self.preprocess.size is not None:
            masks = masks.reshape(-1, *own).to(torch.uint8)
            masks = self.preprocess.fit(masks, mask=True) if len(masks) else masks.new_zeros(0, *self.preprocess.size)
            masks = masks.bool()
        for i in (~masks.flatten(1).any(1)).nonzero()[:, 0].tolist():
            left, top, right, bottom = boxes[i].tolist()
            if left >= 0 and top >= 0 and right <= masks.shape[2] and bottom <= masks.shape[1]:
                masks[i, int(top) : max(math.ceil(bottom), 1), int(left) : max(math.ceil(right), 1)] = True
        return masks


class LargestSource(BoxSource):
    """Images with one object each, see `largest`: its `label` int64 () and `box` float32 (4,)."""

    def _target(self, index: int) -> Any:
        target = super()._target(index)
        box = target["boxes"].as_subclass(Tensor)[0]
        return {"label": target["labels"][0], "box": box, "path": target["path"]}


def largest(one: Annotated, preprocess: Preprocess) -> Annotated | None:
    """The image with that object alone of which the largest box is left as the network sees it; None without any."""
    own = one.size or (1, 1)
    size = preprocess.size or own
    boxes = clip(preprocess.fit_boxes(torch.from_numpy(one.boxes), own), size)
    areas = areas_of(boxes) * ~torch.from_numpy(one.crowd)
    if not len(areas) or not float(areas.max()):
        return None
    return one.chosen(np.arange(len(areas)) == int(areas.argmax()))


def targets_of(source: Any) -> list[dict[str, Tensor]]:
    """Labels of each image of a source or a subset of one, without reading the images; crowds left out."""
    if isinstance(source, Subset):
        inner = targets_of(source.source)
        return [inner[i] for i in source.indices.tolist()]
    if isinstance(source, BoxSource):
        return [{"labels": torch.from_numpy(one.labels[~one.crowd])} for one in source.images]
    return [source[i][1] for i in range(len(source))]
