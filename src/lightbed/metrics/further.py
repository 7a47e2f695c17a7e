"""Metrics that a user adds to those of a task."""

from collections.abc import Mapping

from torch import Tensor

from lightbed.errors import UserError


def check_further(further: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    """Refuse values of further metrics that cannot be logged.

    Args:
        further: values of the metrics in `task.metrics`, by name.
        own: those of the task.

    Raises:
        UserError: a name is taken already, or a value is not one number.
    """
    for name, value in further.items():
        if name in own:
            raise UserError(f"task.metrics.{name}: {name} is the task's own metric; choose another name")
        if not isinstance(value, Tensor) or value.numel() != 1:
            what = f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
            raise UserError(f"task.metrics.{name} is {what}, not one number: average it, e.g. average=macro")
