"""Logged names, `stage/name`: which way is better, and what a tested value is called."""


def mode_of(name: str) -> str:
    """Whether a logged value is better high ('max') or low ('min'), by its name: losses and seconds low."""
    metric = name.partition("/")[2]
    return "min" if "loss" in metric or is_time(name) else "max"


def is_time(name: str) -> bool:
    """Whether a logged value is a time, which no two runs have the same."""
    return name.partition("/")[2].startswith("seconds")


def tested(name: str) -> str:
    """The test stage's name of a monitored value: `test/accuracy` of `val/accuracy`."""
    return f"test/{name.partition('/')[2]}" if name.startswith("val/") else name
