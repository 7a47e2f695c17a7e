"""What was sent and what was answered, where it is to be kept."""

import json
import threading
from pathlib import Path
from typing import Any

from lightbed.web.uploads import Upload

_lock = threading.Lock()


def keep(folder: Path, upload: Upload, told: dict[str, Any]) -> None:
    """Write an image as it was sent below `folder/images`, and a line about it into `folder/answers.jsonl`.

    Args:
        folder: of the run.
        upload: an image of the same name as another one gets a number before it.
        told: what a network said of it, see `answers.for_api`.
    """
    images = folder / "images"
    with _lock:
        images.mkdir(exist_ok=True)
        number = 0
        while (target := images / (f"{number}_{upload.name}" if number else upload.name)).exists():
            if target.read_bytes() == upload.content:
                break
            number += 1
        target.write_bytes(upload.content)
        with (folder / "answers.jsonl").open("a", encoding="utf-8") as out:
            out.write(json.dumps({"image": target.name, **told}, ensure_ascii=False) + "\n")
