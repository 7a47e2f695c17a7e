"""The terminal, for tables of what users name."""

from typing import Any

from rich.console import Console
from rich.text import Text

from lightbed.errors import printable


class Plain(Console):
    """A console that takes texts for what they are: rich would read `[final]` as markup and `:key:` as a picture."""

    def __init__(self, **options: Any) -> None:
        super().__init__(markup=False, emoji=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(printable(text), **options)
