"""The jobs of a multirun: composed before the first one starts, and kept as they were."""

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightbed.errors import UserError

if TYPE_CHECKING:
    from hydra._internal.config_loader_impl import ConfigLoaderImpl
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

_KEPT = ("overrides", "job", "runtime", "callbacks", "job_logging", "verbose")  # of Hydra's own node


class Composition:
    """Composes jobs as Hydra's loader does, but what jobs with the same options of groups share only once.

    Takes the place of the loader's `load_sweep_config`, so that Hydra's sweeper, which composes all jobs to check them,
    and the launcher, which needs them, have the same. 500 jobs take seconds instead of minutes.

    Args:
        loader: Hydra's.
    """

    def __init__(self, loader: "ConfigLoaderImpl") -> None:
        self.loader = loader
        self.count = 0  # of the jobs composed so far, which is the number of the next
        self.bases: dict[tuple[str, ...], DictConfig] = {}
        self.parsed: dict[str, Override] = {}
        self.groups: dict[str, bool] = {}
        self.done: dict[tuple[str, ...], DictConfig] = {}
        self.repository: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self.loader, name)

    def load_sweep_config(self, master_config: "DictConfig", sweep_overrides: list[str]) -> "DictConfig":
        """The config of the job with these overrides.

        Raises:
            UserError: it does not compose; the job is named.
        """
        key = tuple(sweep_overrides)
        if key not in self.done:
            try:
                self.done[key] = self._compose(master_config, sweep_overrides)
            except Exception as error:
                told = _fault(error, master_config, sweep_overrides)
                raise (named(self.count, sweep_overrides, told) if told else error) from error
            self.count += 1
        return self.done[key]

    def take(self, master: "DictConfig", overrides: Sequence[str]) -> "DictConfig":
        """Likewise, but nothing is kept of it."""
        config = self.load_sweep_config(master, list(overrides))
        del self.done[tuple(overrides)]
        return config

    def _compose(self, master: "DictConfig", words: list[str]) -> "DictConfig":
        from hydra._internal.config_loader_impl import ConfigLoaderImpl, get_overrides_dirname
        from omegaconf import open_dict

        overrides = [self._parse(word, master) for word in words]
        choosing = tuple(word for word, one in zip(words, overrides, strict=True) if self._chooses(one))
        if choosing not in self.bases:
            self.bases[choosing] = self.loader.load_sweep_config(master, list(choosing))
        config = copy.deepcopy(self.bases[choosing])
        setting = [one for word, one in zip(words, overrides, strict=True) if word not in choosing]
        ConfigLoaderImpl._apply_overrides_to_config(setting, config)
        names = [one for one in overrides if not one.is_hydra_override()]
        with open_dict(config):
            config.hydra.overrides.task = list(words)
            form = config.hydra.job.config.override_dirname
            config.hydra.job.override_dirname = get_overrides_dirname(
                names, kv_sep=form.kv_sep, item_sep=form.item_sep, exclude_keys=form.exclude_keys
            )
        return config

    def _parse(self, word: str, master: "DictConfig") -> "Override":
        if word not in self.parsed:
            if self.repository is None:
                known = list(master.hydra.overrides.hydra)
                name = master.hydra.job.config_name
                self.repository = self.loader._parse_overrides_and_create_caching_repo(name, known)[1]
            from hydra.core.override_parser.overrides_parser import OverridesParser

            self.parsed[word] = OverridesParser.create().parse_override(word)
        return self.parsed[word]

    def _chooses(self, override: "Override") -> bool:
        """Whether an override is the choice of a group's option, on which the other keys depend."""
        key = override.key_or_group
        if key not in self.groups:
            self.groups[key] = self.repository.group_exists(key)
        return self.groups[key] and not isinstance(override.value(), dict)


def named(number: int, overrides: Sequence[str], text: object) -> UserError:
    """A fault of one job of many, which says which."""
    return UserError(f"job {number}: {text} (its overrides: {' '.join(overrides)})")


def _fault(error: Exception, master: "DictConfig", words: Sequence[str]) -> UserError | None:
    """The user's mistake behind an error of composing a job."""
    from lightbed import faults
    from lightbed.words import Line

    own = next((one.path for one in master.hydra.runtime.config_sources if one.provider == "command-line"), None)
    flags = argparse.Namespace(config_dir=own, config_name=master.hydra.job.config_name, multirun=False)
    return faults.explain(error, Line("train", [*master.hydra.overrides.hydra, *words], flags))


def freeze(config: "DictConfig", number: int) -> dict[str, Any]:
    """A job as plain values, every interpolation resolved: nothing can change it any more.

    Args:
        config: composed, with Hydra's node.
        number: of the job.

    Returns:
        `config`, the job's own; `hydra`, what it needs of Hydra's; `folder`, absolute.

    Raises:
        UserError: a key that must be given is missing.
    """
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode
    from omegaconf import OmegaConf, open_dict
    from omegaconf.errors import MissingMandatoryValue

    former = HydraConfig.instance().cfg
    try:
        OmegaConf.set_readonly(config.hydra, False)
        with open_dict(config):
            config.hydra.job.id, config.hydra.job.num, config.hydra.mode = str(number), number, RunMode.MULTIRUN
        HydraConfig.instance().set_config(config)
        folder = Path(str(config.hydra.sweep.dir), str(config.hydra.sweep.subdir)).absolute()
        OmegaConf.set_readonly(config.hydra, False)
        with open_dict(config.hydra.runtime):
            config.hydra.runtime.output_dir = str(folder)
        HydraConfig.instance().set_config(config)
        own = {str(key): _plain(config, key) for key in config if key != "hydra"}
        hydra = {key: _plain(config.hydra, key) for key in _KEPT}
    except MissingMandatoryValue as error:
        missing = sorted(key for key in OmegaConf.missing_keys(config) if not key.startswith("hydra"))
        raise UserError(f"please give {', '.join(f'{key}=...' for key in missing)}") from error
    finally:
        HydraConfig.instance().cfg = former
    return {"config": own, "hydra": hydra, "folder": str(folder)}


def _plain(config: "DictConfig", key: Any) -> Any:
    from omegaconf import OmegaConf

    value = config[key]
    if not OmegaConf.is_config(value):
        return value
    return OmegaConf.to_container(value, resolve=True, throw_on_missing=config._key() != "hydra", enum_to_str=True)


def thaw(content: dict[str, Any], *, single: bool = False) -> "DictConfig":
    """The config that Hydra's `run_job` takes, from what `freeze` gave; `single`: as of a run that is no multirun."""
    from hydra.conf import HydraConf
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    folder = Path(content["folder"])
    # the folder's own names, so that nothing asks for new ones
    places = {"run": {"dir": str(folder)}, "sweep": {"dir": str(folder.parent), "subdir": folder.name}}
    config = OmegaConf.create({"hydra": OmegaConf.structured(HydraConf)})
    with_own = OmegaConf.merge(config, {"hydra": {**content["hydra"], **places, "output_subdir": None}})
    for key, value in content["config"].items():
        OmegaConf.update(with_own, key, value, force_add=True)
    with_own.hydra.mode = RunMode.RUN if single else RunMode.MULTIRUN
    return with_own  # type: ignore[return-value]
