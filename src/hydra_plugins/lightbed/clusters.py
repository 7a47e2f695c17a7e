"""`hydra/launcher=slurm` and `hydra/launcher=ray`: the jobs of a multirun on other machines."""

from typing import Any

from hydra_plugins.lightbed.local import LocalLauncher


class SlurmLauncher(LocalLauncher):
    """Jobs of Slurm.

    Args:
        settings: see `lightbed.sweeps.on_slurm.Slurm`.
    """

    def __init__(self, **settings: Any) -> None:
        from lightbed.sweeps.on_slurm import Slurm

        self.settings = Slurm.of(settings)


class RayLauncher(LocalLauncher):
    """Jobs on a Ray cluster.

    Args:
        settings: see `lightbed.sweeps.on_ray.Ray`.
    """

    def __init__(self, **settings: Any) -> None:
        from lightbed.sweeps.on_ray import Ray

        self.settings = Ray.of(settings)
