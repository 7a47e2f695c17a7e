"""Help texts made from the config files themselves, without importing Hydra or torch."""

from pathlib import Path


def overview(commands: dict[str, str]) -> str:
    """`lightbed --help`."""
    rows = "\n".join(f"  {name:10}{text}" for name, text in commands.items())
    return f"lightbed COMMAND [key=value ...]\n\nCommands:\n{rows}"


def command(name: str, text: str, conf: Path) -> str:
    """`lightbed NAME --help`."""
    return f"lightbed {name}: {text}\n\n{(conf / f'{name}.yaml').read_text()}"


def complete(arguments: list[str], commands: list[str]) -> int:
    """Shell completion."""
    return 0
