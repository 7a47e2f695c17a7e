"""TensorBoard's files: charts of an epoch at one step, and the HParams page."""

import json
from pathlib import Path

import pytest
from tensorboard.backend.event_processing import plugin_event_multiplexer
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.context import RequestContext
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, get_experiment, list_session_groups

from lightbed.cli import main
from lightbed.runs.board import parameters
from lightbed.runs.history import read_history

TINY = ["model.channels=[4]", "trainer.accelerator=cpu", "callbacks.layers=null", "callbacks.pictures=null"]


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs with different parameters: a long one, one with label smoothing, and one without an epoch."""
    folder = tmp_path_factory.mktemp("outputs")
    for name, words in {
        "long": ["trainer.max_epochs=3"],
        "smooth": ["trainer.max_epochs=1", "task.label_smoothing=0.1", "optimizer=sgd", "optimizer.lr=0.02"],
        "zero": ["trainer.max_epochs=0"],
    }.items():
        run = folder / "classifier" / f"2026-11-21_15-00-00_{len(name)}" / name
        assert main(["train", *TINY, *words, f"hydra.run.dir={run}", f"paths.outputs={folder}"]) == 0
    (folder / "latest").unlink()
    return folder


def run_of(outputs: Path, name: str) -> Path:
    (found,) = outputs.glob(f"classifier/*/{name}")
    return found


def page(outputs: Path) -> tuple[api_pb2.Experiment, dict[str, api_pb2.SessionGroup]]:
    """What TensorBoard's own HParams page is given for this folder: its columns, and its rows by run name."""
    multiplexer = plugin_event_multiplexer.EventMultiplexer().AddRunsFromDirectory(str(outputs))
    multiplexer.Reload()
    provider = MultiplexerDataProvider(multiplexer, str(outputs))
    context = backend_context.Context(base_plugin.TBContext(data_provider=provider))
    asked, request = RequestContext(), api_pb2.ListSessionGroupsRequest(start_index=0, slice_size=100)
    request.allowed_statuses.extend([api_pb2.STATUS_SUCCESS, api_pb2.STATUS_FAILURE, api_pb2.STATUS_RUNNING])
    columns = get_experiment.Handler(asked, context, "", api_pb2.GetExperimentRequest()).run()
    rows = list_session_groups.Handler(asked, context, "", request).run().session_groups
    return columns, {row.name.rpartition("/")[2]: row for row in rows}


def test_one_event_file_in_the_run_folder_and_nothing_beside_it(outputs: Path) -> None:
    run = run_of(outputs, "long")
    assert len(list(run.glob("events.out.tfevents.*"))) == 1
    assert {path.name for path in run.iterdir() if path.is_dir()} <= {"checkpoints", "pictures"}
    assert not list(run.rglob("hparams.yaml"))


def test_training_and_validation_stand_at_the_same_steps(outputs: Path) -> None:
    run = run_of(outputs, "long")
    events = EventAccumulator(str(run)).Reload()
    rows = read_history(run / "metrics.csv")
    for name in ("train/loss", "val/loss", "train/accuracy", "val/accuracy"):
        found = [(event.step, pytest.approx(event.value)) for event in events.Scalars(name)]
        assert found == [(row["step"], row[name]) for row in rows]
    assert [event.value for event in events.Scalars("train/lr")] == pytest.approx([0.001] * 3)
    (test,) = events.Scalars("test/accuracy")
    assert test.step == rows[-1]["step"] == 63


def test_hparams_page_has_every_run_with_its_parameters_and_final_metrics(outputs: Path) -> None:
    columns, rows = page(outputs)
    assert set(rows) == {"long", "smooth", "zero"}
    assert {info.name for info in columns.hparam_infos} >= {
        "data",
        "model",
        "optimizer",
        "lr",
        "seed",
        "task.label_smoothing",
    }
    varying = {info.name for info in columns.hparam_infos if info.differs}
    assert varying == {"max_epochs", "optimizer", "lr"}
    smooth = dict(rows["smooth"].hparams)
    assert smooth["optimizer"].string_value == "sgd"
    assert smooth["lr"].number_value == 0.02
    assert smooth["task.label_smoothing"].number_value == 0.1
    assert smooth["model.channels"].string_value == "[4]"
    for name, row in rows.items():
        with (run_of(outputs, name) / "metrics.json").open() as file:
            final = json.load(file)
        values = {value.name.tag: value.value for value in row.metric_values}
        for metric in ("test/accuracy", "test/loss", "test/f1"):
            assert values[metric] == pytest.approx(final[metric], rel=1e-6)
        record = json.loads((run_of(outputs, name) / "run.json").read_text())
        assert 0 < values["run/seconds"] <= record["seconds"] + 1e-3
        assert 100 < values["run/memory_mib"] <= max(record["memory"]["process"], record["memory"]["child"]) + 0.1
        assert row.sessions[0].status == api_pb2.STATUS_SUCCESS


def test_a_failed_run_is_marked_as_failed(tmp_path: Path) -> None:
    words = ["trainer.max_epochs=1", "callbacks=early_stopping", "callbacks.early_stopping.monitor=val/map/nothing"]
    assert (
        main(["train", *TINY, *words, f"hydra.run.dir={tmp_path / 'run'}", f"paths.outputs={tmp_path / 'other'}"]) == 2
    )
    _, rows = page(tmp_path)
    assert rows["run"].sessions[0].status == api_pb2.STATUS_FAILURE


def test_parameters_are_a_stable_set_and_what_was_overridden() -> None:
    config = {
        "name": "x", "seed": 3, "data": {"_target_": "a.Digits", "batch_size": 64}, "augment": {"batch": []},
        "model": {"_target_": "b.CNN", "width": None}, "scheduler": {"build": None},
        "optimizer": {"_target_": "torch.optim.Adam", "lr": 0.1},
        "task": {"_target_": "c.Classifier", "kind": "binary"}, "trainer": {"max_epochs": 5}, "paths": {"outputs": "o"},
    }  # fmt: skip
    choices = {"model": "tiny", "scheduler": "none", "experiment": None}
    words = [
        "model=tiny",
        "+model.width=null",
        "optimizer.lr=0.1",
        "task.kind=binary",
        "paths.outputs=o",
        "hydra.run.dir=x",
    ]
    assert parameters(config, choices, words) == {
        "data": "Digits", "model": "tiny", "task": "Classifier", "optimizer": "Adam", "scheduler": "none", "lr": 0.1,
        "batch_size": 64, "max_epochs": 5, "seed": 3, "model.width": "None", "task.kind": "binary",
    }  # fmt: skip
