"""A content image and a style image, for neural style."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from lightbed.data.base import DataModule, Loading
from lightbed.data.images import read_image
from lightbed.data.source import Sample
from lightbed.errors import UserError

# of scikit-learn: CC BY 2.0, by danielbuechele and vultilion on Flickr
_EMBEDDED = {"content": "china.jpg", "style": "flower.jpg"}


class Pair:
    """The same pair of images again and again."""

    def __init__(self, content: Tensor, style: Tensor, count: int) -> None:
        self.content, self.style, self.count = content, style, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        if not 0 <= index < self.count:
            raise IndexError(index)
        target: Any = {"style": self.style}
        return self.content, target


class StylePair(DataModule):
    """Two images of `image_size`: a sample is the content image, its target's `style` the style image.

    Args:
        content: image file; None: scikit-learn's photograph of a Chinese temple.
        style: image file; None: its photograph of a flower.
        steps: how often the pair comes in an epoch.
        common: the arguments of `DataModule`; `image_size` must be given.

    Raises:
        UserError: there is no size.
    """

    holds = ("style",)

    def __init__(
        self, *, content: str | Path | None = None, style: str | Path | None = None, steps: int = 50, **common: Any
    ) -> None:
        super().__init__(**common)
        if self.preprocess.size is None:
            raise UserError("data.image_size=null: say how large the image shall be, e.g. 256")
        if steps < 1:
            raise UserError(f"data.steps={steps} must be at least 1")
        self.given = {"content": content, "style": style}
        self.steps = steps

    def load(self) -> Loading:
        content, style = (self.preprocess.fit(read_image(path, self.preprocess.channels)) for path in self._files())
        splits = {"train": Pair(content, style, self.steps), "test": Pair(content, style, 1)}
        return Loading(splits, ["image"])  # type: ignore[arg-type]

    def _files(self) -> Sequence[Path]:
        import sklearn.datasets  # half a second that other data sets need not pay

        folder = Path(sklearn.datasets.__file__).parent / "images"
        return [Path(path).expanduser() if path else folder / _EMBEDDED[name] for name, path in self.given.items()]

    def fingerprint_files(self) -> list[Path]:
        return [file for file, given in zip(self._files(), self.given.values(), strict=True) if given]
