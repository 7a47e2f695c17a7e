"""Horses or Humans: rendered pictures, two classes."""

from pathlib import Path
from typing import Any

from lightbed.data.base import Loading
from lightbed.data.download import File, fetch, unpack
from lightbed.data.folder import ImageFolder
from lightbed.errors import one_of

_URL = "https://storage.googleapis.com/download.tensorflow.org/data"
_ARCHIVES = {  # sums as TensorFlow Datasets publishes them
    "train": ("horse-or-human.zip", "e2e6f70d3d549c5dd10a57165e55af253ee66ad750403f95c0fb76bb943633a9"),
    "validation": ("validation-horse-or-human.zip", "ae5fff2f4f5554791f05358108e2e05d9801b191f1896ea101402f0e7f6c32c0"),
}


class HorseOrHuman(ImageFolder):
    """1,027 + 256 rendered horses and people, 300x300 RGB (Laurence Moroney, CC BY 2.0).

    Args:
        root: folder of data sets; the images lie in `root/horse-or-human/{train,validation}/{horses,humans}`.
        url: folder that the two archives are downloaded from; None for TensorFlow's.
        validation_folder: split that the given validation folder is: 'test' (a validation split is then cut from the
            training images) or 'val'.
        common: the arguments of `ImageFolder`.
    """

    def __init__(
        self, root: str | Path, *, url: str | None = None, validation_folder: str = "test", **common: Any
    ) -> None:
        super().__init__(Path(root) / "horse-or-human", **{"image_size": [300, 300], **common})
        self.url = (url or _URL).rstrip("/")
        self.validation_folder = one_of(validation_folder, ("test", "val"), "data.validation_folder")

    def download(self) -> None:
        for folder, (name, checksum) in _ARCHIVES.items():
            if not (self.root / folder).is_dir():
                archive = fetch(File(name, checksum, [f"{self.url}/{name}"]), self.root)
                unpack(archive, self.root / folder)
                archive.unlink(missing_ok=True)

    def load(self) -> Loading:
        loading = super().load()
        if self.validation_folder == "test":
            loading.splits["test"] = loading.splits.pop("val")
        return loading
