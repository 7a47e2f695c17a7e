"""What a search may try: Hydra's notation of sweeps as Optuna's distributions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lightbed.errors import UserError

if TYPE_CHECKING:
    from hydra.core.override_parser.types import Override
    from optuna.distributions import BaseDistribution


@dataclass
class Space:
    """The words that all trials share, and for each key that a search varies what it may be."""

    fixed: list[str]
    free: "dict[str, BaseDistribution]"  # choices are texts, as an override has them

    @classmethod
    def of(cls, overrides: "Sequence[Override]") -> "Space":
        """The space of a command line.

        `a,b`, `choice(a,b)` and `glob(*)` are choices without an order, `range(1,5)` is 1, 2, 3 or 4, `interval(0,0.5)`
        any number, `int(interval(1,8))` any whole one of 1..8, both with `tag(log,...)` by their logarithm.

        Raises:
            UserError: nothing varies, or a range is empty.
        """
        fixed, free = [], {}
        for override in overrides:
            key = override.get_key_element()
            if override.is_sweep_override():
                free[key] = _distribution(override)
            else:
                fixed.append(f"{key}={override.get_value_element_as_str()}" if not override.is_delete() else key)
        if not free:
            raise UserError(
                "a search needs values to choose from, such as optimizer.lr='tag(log,interval(1e-4,1e-1))', "
                "model=cnn,dnn or data.batch_size='range(16,129,16)'"
            )
        return cls(fixed, free)

    def words(self, values: Mapping[str, Any]) -> list[str]:
        """The overrides of a trial with these values."""
        return [*self.fixed, *(f"{key}={values[key]}" for key in self.free)]

    def corners(self) -> list[list[str]]:
        """The overrides of a few trials in which each choice, and each number's least and greatest, comes up."""
        ends = {key: _ends(distribution) for key, distribution in self.free.items()}
        count = max(len(values) for values in ends.values())
        return [self.words({key: values[i % len(values)] for key, values in ends.items()}) for i in range(count)]

    def grid(self) -> dict[str, list[Any]]:
        """All values of each key.

        Raises:
            UserError: a key may be any number of an interval.
        """
        found: dict[str, list[Any]] = {}
        for key, each in self.free.items():
            step = getattr(each, "step", None)
            if hasattr(each, "choices"):
                found[key] = list(each.choices)
            elif step is None or each.log:  # type: ignore[attr-defined]
                raise UserError(
                    f"{key}: hydra.sweeper.sampler=grid needs single values, e.g. {key}=0.1,0.01 or range(...)"
                )
            else:
                count = round((each.high - each.low) / step) + 1  # type: ignore[attr-defined]
                found[key] = [round(each.low + i * step, 12) for i in range(count)]  # type: ignore[attr-defined]
        return found


def _distribution(override: "Override") -> "BaseDistribution":
    from hydra.core.override_parser.types import IntervalSweep, RangeSweep
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value: Any = override.value()
    word = override.input_line or override.get_key_element()
    log = "log" in getattr(value, "tags", ())
    try:
        if isinstance(value, IntervalSweep):
            low: Any = value.start
            high: Any = value.end
            whole = isinstance(low, int) and isinstance(high, int)
            return IntDistribution(low, high, log=log) if whole else FloatDistribution(low, high, log=log)
        if isinstance(value, RangeSweep):
            values = list(value.range())
            if all(isinstance(each, int) for each in values):
                step = 1 if log else int(value.step)
                return IntDistribution(values[0], values[-1], log=log, step=step)
            return FloatDistribution(float(values[0]), float(values[-1]), step=float(value.step))
    except (ValueError, IndexError, TypeError) as error:
        raise UserError(f"{word} holds no values: {error}") from error
    return CategoricalDistribution(list(dict.fromkeys(override.sweep_string_iterator())))


def _ends(each: "BaseDistribution") -> list[Any]:
    choices = getattr(each, "choices", None)
    return list(choices) if choices is not None else [each.low, each.high]  # type: ignore[attr-defined]
