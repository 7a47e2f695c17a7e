"""`hydra/sweeper=optuna`: a search in place of every combination."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hydra.plugins.sweeper import Sweeper

if TYPE_CHECKING:
    from hydra.types import HydraContext, TaskFunction
    from omegaconf import DictConfig


class OptunaSweeper(Sweeper):
    """Hydra's side of `lightbed.sweeps.search.Search`.

    Args:
        params: what varies, besides the command line.
        settings: see `lightbed.sweeps.search.Settings`.
    """

    def __init__(self, params: Mapping[str, Any] | None = None, **settings: Any) -> None:
        from lightbed.sweeps.search import Settings

        self.params, self.settings = params or {}, Settings(**settings)

    def setup(self, *, hydra_context: "HydraContext", task_function: "TaskFunction", config: "DictConfig") -> None:
        """Take what Hydra has composed of the whole command line."""
        from hydra.core.plugins import Plugins

        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials."""
        from hydra.core.override_parser.overrides_parser import OverridesParser

        from lightbed.sweeps.searching import search

        words = [*(f"{key}={value}" for key, value in self.params.items()), *arguments]
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)  # type: ignore[union-attr]
        search(self, parser.parse_overrides(words))
