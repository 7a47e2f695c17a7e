"""`hydra/launcher=local`: the jobs of a multirun side by side on this machine."""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from hydra.plugins.launcher import Launcher

if TYPE_CHECKING:
    from hydra.core.utils import JobReturn
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class LocalLauncher(Launcher):
    """Hydra's side of `lightbed.sweeps.launcher.Local`, which is made when a multirun is set up.

    Args:
        settings: see `lightbed.sweeps.launcher.Settings`.
    """

    def __init__(self, **settings: Any) -> None:
        from lightbed.sweeps.launcher import Settings

        self.settings: Any = Settings.of(settings)  # each launcher has its own

    def setup(self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig") -> None:  # noqa: ARG002
        """Take what Hydra has composed of the whole command line."""
        from lightbed.sweeps.launcher import Local

        self.local = Local(self.settings, hydra_context, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> "Sequence[JobReturn]":
        """Run the jobs that differ by these overrides, and wait for all of them."""
        return self.local.launch(job_overrides, initial_job_idx)

    def launch_each(
        self,
        ask: Callable[[], tuple[int, Sequence[str]] | None],
        ended: Callable[[int], Any],
        samples: Sequence[Sequence[str]] = (),
    ) -> None:
        """Run jobs that are asked for when there is room, `samples` checked before; see `lightbed.sweeps.runner`."""
        self.local.launch_each(ask, ended, samples)
