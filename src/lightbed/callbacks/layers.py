"""The table of the network's layers, before training."""

import warnings
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import nn

from lightbed.errors import UserError
from lightbed.runs.log import say, show

_WIDE = 30  # characters of a name; longer ones lose their middle


class Layers(Callback):
    """Prints the network's layers: name, type, parameters, shapes of one example's input and output.

    Args:
        max_depth: how deep the table goes: 1 shows the network's own parts, 2 their parts, too; 0 turns it off.
    """

    def __init__(self, max_depth: int = 2) -> None:
        if max_depth < 0:
            raise UserError(f"callbacks.layers.max_depth={max_depth} must be at least 0; 0 turns the table off")
        self.max_depth = max_depth

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        if self.max_depth and trainer.is_global_zero:
            show(layer_table(pl_module, self.max_depth))
            say(size_line(pl_module.model))


def layer_table(task: LightningModule, max_depth: int) -> Table:
    """The table of `task.model`, the network itself first.

    The shapes are those of `task.example_input_array` on its way through, after preprocessing.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*not supported by the model summary.*")  # of its megabytes: ours are below
        summary = ModelSummary(task, max_depth=max_depth + 1)  # the network is one level below the task
    rows = [row for row in zip(
        summary.layer_names, summary.layer_types, summary.param_nums, summary.in_sizes, summary.out_sizes, strict=True
    ) if row[0].split(".")[0] == "model"]  # fmt: skip
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, justify in (
        ("layer", "left"),
        ("type", "left"),
        ("parameters", "right"),
        ("in", "right"),
        ("out", "right"),
    ):
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for name, kind, count, before, after in rows:
        depth = name.count(".")
        shown = "  " * max(depth - 1, 0) + name.rpartition(".")[2] if depth else "model"
        table.add_row(_middle(shown), _middle(kind), f"{count:,}" if count else "-", _shape(before), _shape(after))
    return table


def size_line(network: nn.Module) -> str:
    """How many parameters a network has, and how many bytes with its buffers."""
    parameters = list(network.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    size = sum(t.numel() * t.element_size() for t in [*parameters, *network.buffers()]) / 1e6
    return f"{total:,} parameters, {trainable:,} of them trainable, {size:,.1f} MB"


def _shape(size: Any) -> str:
    """`[1, 3, 600, 400]` -> `3x600x400`; of several tensors the first that has a shape."""
    if isinstance(size, list) and size and all(isinstance(length, int) for length in size):
        return "x".join(map(str, size[1:])) or "1"
    if isinstance(size, list):
        shapes = [_shape(part) for part in size if isinstance(part, list)]
        return next((shape for shape in shapes if shape != "-"), "-") + (", ..." if len(size) > 1 else "")
    return "-"


def _middle(text: str) -> str:
    if len(text) <= _WIDE:
        return text
    return text[: _WIDE // 2] + "…" + text[-(_WIDE // 2 - 1) :]
