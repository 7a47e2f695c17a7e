"""Logged names, `stage/name`: which way is better, and what a tested value is called."""


def mode_of(name: str) -> str:
    """Whether a logged value is better high ('max') or low ('min'), by its name: losses are better low."""
    return "min" if "loss" in name.partition("/")[2] else "max"


def tested(name: str) -> str:
    """The test stage's name of a monitored value: `test/accuracy` of `val/accuracy`."""
    return f"test/{name.partition('/')[2]}" if name.startswith("val/") else name
