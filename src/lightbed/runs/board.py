"""TensorBoard: the event files in a run folder."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from lightbed.folders import run_name
from lightbed.runs.record import writing

Scalar = str | bool | int | float


class Board(TensorBoardLogger):
    """Lightning's TensorBoard logger with its files directly in the run folder and nothing else beside them.

    An epoch's values arrive as one row of `runs.history`, so that training and validation have the same step. The
    HParams page takes its columns from all runs together, and a run's metrics from its scalars: each run only says its
    own parameters, for TensorBoard would take the columns of whichever run it finds first for those of all.

    Args:
        folder: the run folder.
        since: step of the checkpoint that a run goes on from: what is in the files for later steps no longer counts.
    """

    def __init__(self, folder: Path, since: int | None = None) -> None:
        purge_step = None if since is None else since + 1
        super().__init__(str(folder), name="", version="", default_hp_metric=False, purge_step=purge_step)

    @rank_zero_only
    def begin(self, parameters: Mapping[str, Scalar], metric: str) -> None:
        """List the run on the HParams page, and lay out the page of custom scalars.

        Args:
            parameters: see `parameters`.
            metric: the main one, e.g. `accuracy`.
        """
        from tensorboard.plugins.hparams.summary_v2 import hparams_pb

        self._summary(hparams_pb(dict(parameters), trial_id=run_name(Path(self.log_dir))))
        # the other pages have a chart for each name; here both stages share one
        charts = {name: ["Multiline", [f"^train/{name}$", f"^val/{name}$"]] for name in dict.fromkeys(("loss", metric))}
        self.experiment.add_custom_scalars({"training and validation": charts})

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Values of a test, and what callbacks log by themselves; an epoch's own values come by `log_row`."""
        if "epoch" not in metrics or any(name.startswith("test/") for name in metrics):
            super().log_metrics({name: value for name, value in metrics.items() if name != "epoch"}, step)

    @rank_zero_only
    def log_row(self, row: Mapping[str, float]) -> None:
        """All values of an epoch, at its step; learning rates go to the training charts."""
        values = {name: value for name, value in row.items() if name not in ("epoch", "step", "seconds")}
        staged = {name if name.startswith(("train/", "val/")) else f"train/{name}": v for name, v in values.items()}
        with writing(Path(self.log_dir)):
            try:
                super().log_metrics(staged, int(row["step"]))
            except ValueError as error:  # Lightning's word for whatever happens there
                raise error.__cause__ or error from None

    @rank_zero_only
    def log_picture(self, name: str, image: Any, step: int) -> None:
        """A picture uint8 (H, W, 3)."""
        self.experiment.add_image(name, image, step, dataformats="HWC")

    @rank_zero_only
    def finish(self, status: str, figures: Mapping[str, float] | None = None, step: int = 0) -> None:
        """Say how the run ended ('done' or anything else) and close the files.

        Args:
            status: of the run.
            figures: what the HParams page is to show beside the metrics.
            step: the run's last.
        """
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.plugins.hparams import api_pb2, metadata, plugin_data_pb2

        state = api_pb2.STATUS_SUCCESS if status == "done" else api_pb2.STATUS_FAILURE
        ended = plugin_data_pb2.HParamsPluginData(session_end_info=plugin_data_pb2.SessionEndInfo(status=state))
        about = metadata.create_summary_metadata(ended)
        value = Summary.Value(tag=metadata.SESSION_END_INFO_TAG, metadata=about, tensor=metadata.NULL_TENSOR)
        for name, figure in (figures or {}).items():
            self.experiment.add_scalar(name, figure, step)
        self._summary(Summary(value=[value]))
        self.experiment.close()

    @rank_zero_only
    def save(self) -> None:
        """Write out what is pending; no hparams.yaml, for config.yaml says it all."""
        self.experiment.flush()

    @rank_zero_only
    def finalize(self, status: str) -> None:
        """Lightning's call when a fit or test ends; the run goes on, unless it failed."""
        if status == "failed":
            with suppress(OSError):  # a full disk must not hide why the run failed
                self.finish(status)
        else:
            self.save()

    def _summary(self, summary: Any) -> None:
        self.experiment._get_file_writer().add_summary(summary)


def parameters(config: Mapping[str, Any], choices: Mapping[str, Any], words: Sequence[str]) -> dict[str, Scalar]:
    """What the HParams page shows of a run: a stable set of parameters and every key of the command line.

    Args:
        config: resolved.
        choices: chosen option of each config group, as Hydra names them; may be empty.
        words: overrides of the command line.
    """
    shown: dict[str, Any] = {}
    for group in ("experiment", "data", "model", "task", "augment", "optimizer", "scheduler"):
        choice = choices.get(group) or _target(config.get(group))
        if choice:
            shown[group] = choice
    shown["lr"] = config["optimizer"].get("lr")
    shown["batch_size"] = config["data"].get("batch_size")
    shown["max_epochs"] = config["trainer"]["max_epochs"]
    shown["seed"] = config["seed"]
    for word in words:
        key = word.split("=")[0].lstrip("+~")
        value = _find(config, key)
        known = key in shown or key in ("optimizer.lr", "data.batch_size", "trainer.max_epochs", "name")
        if not known and not key.startswith(("hydra", "paths")) and not isinstance(value, Mapping):
            shown[key] = value
    return {key: value if isinstance(value, str | bool | int | float) else str(value) for key, value in shown.items()}


def _target(part: Any) -> str | None:
    """The class that a part of the config makes, for configs that were not composed by Hydra."""
    return part["_target_"].rpartition(".")[2] if isinstance(part, Mapping) and "_target_" in part else None


def _find(config: Any, key: str) -> Any:
    for name in key.split("."):
        if not isinstance(config, Mapping) or name not in config:
            return {}
        config = config[name]
    return config
