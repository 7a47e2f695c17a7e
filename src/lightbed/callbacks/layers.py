"""The table of the network's layers, before training."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities.model_summary.model_summary import ModelSummary
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor, nn

from lightbed.errors import UserError
from lightbed.runs.log import say, show
from lightbed.tasks.sharding import is_sharded

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
        if self.max_depth and (trainer.is_global_zero or is_sharded(pl_module.model)):
            table = layer_table(pl_module, self.max_depth)
            if trainer.is_global_zero:
                show(table)
                say(size_line(pl_module.model))


def layer_table(task: LightningModule, max_depth: int) -> Table:
    """The table of `task.model`, the network itself first.

    The shapes are those of `task.example_input_array` on its way through, after preprocessing.
    """
    with warnings.catch_warnings(), watched(task) as shapes:
        warnings.filterwarnings("ignore", ".*not supported by the model summary.*")  # of its megabytes: ours are below
        summary = ModelSummary(task, max_depth=max_depth + 1)  # the network is one level below the task
    columns = zip(summary.layer_names, summary.layer_types, summary.param_nums, strict=True)
    rows = [(*row, *shapes.get(row[0], ("-", "-"))) for row in columns if row[0].split(".")[0] == "model"]
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
        table.add_row(_middle(shown), _middle(kind), f"{count:,}" if count else "-", before, after)
    return table


def size_line(network: nn.Module) -> str:
    """How many parameters a network has, and how many bytes with its buffers."""
    parameters = list(network.parameters())
    total = sum(p.numel() for p in parameters)
    trainable = sum(p.numel() for p in parameters if p.requires_grad)
    size = sum(t.numel() * t.element_size() for t in [*parameters, *network.buffers()]) / 1e6
    return f"{total:,} parameters, {trainable:,} of them trainable, {size:,.1f} MB"


@contextmanager
def watched(task: nn.Module) -> Iterator[dict[str, tuple[str, str]]]:
    """What goes in and comes out of each module at its first call, by the module's name."""
    found: dict[str, tuple[str, str]] = {}
    hooks = []
    for name, module in task.named_modules():
        if not isinstance(module, torch.jit.ScriptModule):

            def note(_: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
                found.setdefault(name, (_shape(inputs), _shape(output)))

            hooks.append(module.register_forward_hook(note))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()


def _shape(value: Any, *, listed: bool = False) -> str:
    """Shape of a tensor without the batch: (1, 3, 600, 400) -> `3x600x400`; of several tensors, of the first one.

    Images in a list have no dimension for the batch. A detector's detections are called boxes.
    """
    if isinstance(value, Tensor):
        return "x".join(map(str, value.shape if listed and value.ndim == 3 else value.shape[1:])) or "1"
    if isinstance(value, Mapping) and "boxes" in value:
        return "boxes"
    value = getattr(value, "tensors", value)  # of torchvision's list of images
    if isinstance(value, Tensor):
        return _shape(value)
    inside = list(value.values()) if isinstance(value, Mapping) else value if isinstance(value, list | tuple) else []
    shapes = [_shape(part, listed=isinstance(value, list)) for part in inside]
    first, *more = [shape for shape in shapes if shape != "-"] or ["-"]
    return first + ", ..." if more and not first.endswith(", ...") else first


def _middle(text: str) -> str:
    if len(text) <= _WIDE:
        return text
    return text[: _WIDE // 2] + "…" + text[-(_WIDE // 2 - 1) :]
