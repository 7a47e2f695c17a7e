"""What a page is made of."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from lightbed.web.examples import Example
from lightbed.web.served import Served
from lightbed.web.uploads import Limits


class Site(NamedTuple):
    """What the page shows, and how.

    Args:
        served: the networks, at least one.
        examples: images to click on.
        limits: of what is sent.
        port: where it is taken the next free one; 0: any free one.
        threshold: least score that is drawn at first.
        queue: requests that may wait.
        folder: where what is sent is kept; None: nothing is.
    """

    served: Sequence[Served]
    examples: Sequence[Example] = ()
    limits: Limits = Limits(20, 50)
    port: int = 7860
    threshold: float = 0.9
    queue: int = 100
    folder: Path | None = None
