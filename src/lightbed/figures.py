"""The figures in metrics.json: one that is undefined or infinite is null there, and NaN here."""

import json
import math
from collections.abc import Mapping
from pathlib import Path


def spelt(figures: Mapping[str, float]) -> str:
    """The text of a metrics.json."""
    plain = {name: value if math.isfinite(value) else None for name, value in figures.items()}
    return json.dumps(plain, indent=2, sort_keys=True, allow_nan=False) + "\n"


def read_figures(path: Path) -> dict[str, float]:
    """The figures of a metrics.json by name; none where it is missing or damaged."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return (
        {name: math.nan if value is None else value for name, value in found.items()} if isinstance(found, dict) else {}
    )
