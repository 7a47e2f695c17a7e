"""Searches: what may be tried, what the study is told, and what it does when it goes on."""

import json
import math
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any

import optuna
import pytest
import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from lightbed.callbacks.pruning import Pruning, open_trial
from lightbed.errors import Pruned, UserError
from lightbed.sweeps.best import as_experiment, write_best
from lightbed.sweeps.search import Search, Settings
from lightbed.sweeps.searching import run as run_trials
from lightbed.sweeps.space import Space

SETTINGS = Settings(trials=6, sampler="tpe", seed=0, pruner="median", pruner_startup=2, pruner_warmup=0)
RATE = "optimizer.lr=tag(log,interval(1e-4,1e-1))"
MONITOR = "val/accuracy"


def space(*words: str) -> Space:
    return Space.of(OverridesParser.create().parse_overrides(list(words)))


def search(folder: Path, *words: str, monitor: str = MONITOR, **changes: Any) -> Search:
    return Search(folder, space(*(words or (RATE,))), SETTINGS._replace(**changes), monitor)


def write_run(folder: Path, words: list[str], status: str = "done", value: float | None = None, **record: Any) -> None:
    """The folder of a trial as its process leaves it."""
    place = folder / ",".join(words)
    place.mkdir()
    (place / "run.json").write_text(json.dumps({"status": status, **record}))
    (place / "overrides.yaml").write_text(yaml.safe_dump(words))
    if value is not None:
        (place / "metrics.json").write_text(json.dumps({MONITOR: value}))


def states(study: Search) -> list[str]:
    return [trial.state.name for trial in study.study.trials]


# -- what may be tried -------------------------------------------------------------------------------------------------


def test_hydras_notation_becomes_distributions() -> None:
    found = space(
        "optimizer.lr=tag(log,interval(1e-4,1e-1))", "model=cnn,dnn", "data.batch_size=range(16,65,16)", "seed=3",
        "+model.channels=[4,8],[8,16]", "model.dropout=interval(0,0.5)", "task.label_smoothing=range(0.0,0.3,0.1)",
        "model.width=tag(log,int(interval(1,128)))", "~callbacks.curves",
    )  # fmt: skip
    assert found.fixed == ["seed=3", "~callbacks.curves"]
    assert found.free == {
        "optimizer.lr": FloatDistribution(1e-4, 1e-1, log=True),
        "model": CategoricalDistribution(["cnn", "dnn"]),
        "data.batch_size": IntDistribution(16, 64, step=16),
        "+model.channels": CategoricalDistribution(["[4,8]", "[8,16]"]),
        "model.dropout": FloatDistribution(0, 0.5),
        "task.label_smoothing": FloatDistribution(0.0, 0.2, step=0.1),
        "model.width": IntDistribution(1, 128, log=True),
    }
    assert len(found.corners()) == 2
    assert "data.batch_size=64" in found.corners()[1]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["seed=1"], "needs values to choose from"),
        (["optimizer.lr=tag(log,interval(0,1))"], "holds no values"),
        (["data.batch_size=range(8,8)"], "holds no values"),
    ],
)
def test_what_leaves_nothing_to_choose_is_refused(words: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        space(*words)


@given(st.integers(-20, 20), st.integers(1, 40), st.integers(1, 7))
def test_a_range_is_what_hydra_says_it_is(start: int, length: int, step: int) -> None:
    assert space(f"x=range({start},{start + length},{step})").grid() == {"x": list(range(start, start + length, step))}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"trials": 0}, "hydra.sweeper.trials=0 must be at least 1"),
        ({"sampler": "tpee"}, "did you mean tpe"),
        ({"pruner": "mean"}, "hydra.sweeper.pruner=mean is not known"),
        ({"pruner_warmup": -1}, "pruner_warmup=-1"),
        ({"sampler": {"_target_": "optuna.samplers.TPESample"}}, "did you mean TPESampler"),
        ({"sampler": "grid"}, "optimizer.lr: hydra.sweeper.sampler=grid needs single values"),
    ],
)
def test_wrong_settings_are_told_by_name(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        search(tmp_path, **changes).ask()


# -- what the study is told --------------------------------------------------------------------------------------------


def test_every_end_of_a_trial_is_told_as_what_it_is(tmp_path: Path) -> None:
    study = search(tmp_path)
    ends: list[tuple[str, float | None]] = [
        ("done", 0.8), ("done", math.nan), ("failed", None), ("pruned", None), ("running", None), ("done", 0.9)
    ]  # fmt: skip
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    for status, value in ends[:-1]:
        number, words = study.ask() or (-1, [])
        process = {"host": platform.node(), "pid": gone.pid}  # a run that was killed says that it is running
        write_run(tmp_path, words, status, value, process=process)
        study.tell(number)
    number, _ = study.ask() or (-1, [])
    study.tell(number)  # its process died before it was a run
    assert states(study) == ["COMPLETE", "FAIL", "FAIL", "PRUNED", "FAIL", "FAIL"]
    assert study.ask() is None
    assert study.best is not None
    assert study.best.number == 0
    assert study.summary().startswith("search: 1 done, 1 pruned, 4 failed; best val/accuracy 0.8000 is trial 0: ")


def test_a_loss_is_to_be_low(tmp_path: Path) -> None:
    assert search(tmp_path, monitor="val/loss").study.direction == optuna.study.StudyDirection.MINIMIZE


def test_a_search_goes_on_where_it_was_killed(tmp_path: Path) -> None:
    study = search(tmp_path)
    asked = [study.ask() for _ in range(4)]
    words = [each[1] for each in asked if each is not None]
    write_run(tmp_path, words[0], "done", 0.5)
    study.tell(0)
    write_run(tmp_path, words[1], "done", 0.7)  # its end was not told any more
    write_run(tmp_path, words[2], "interrupted")
    again = search(tmp_path)
    assert states(again)[:2] == ["COMPLETE", "COMPLETE"]
    assert again.ask() == asked[2], "the same trial, which goes on from its checkpoint"
    assert again.ask() == asked[3], "it never began"
    rest = [again.ask(), again.ask()]
    assert [each[0] for each in rest if each] == [4, 5]
    assert again.ask() is None
    seen = {tuple(word[1:]) for word in (*words, *(each[1] for each in rest if each))}
    assert len(seen) == 6, "a study that goes on does not draw again what it drew at first"


def test_another_search_in_the_same_folder_is_refused(tmp_path: Path) -> None:
    search(tmp_path, RATE, "seed=1")
    search(tmp_path, RATE, "seed=1", trials=50)
    for words, said in (((RATE, "seed=2"), "with seed=1"), (("model=cnn,dnn", "seed=1"), "among optimizer.lr")):
        with pytest.raises(UserError, match=said):
            search(tmp_path, *words)
    with pytest.raises(UserError, match="for val/accuracy, which this is not"):
        search(tmp_path, RATE, "seed=1", monitor="val/loss")


@pytest.mark.parametrize("sampler", ["grid", "random", "cmaes", "tpe", {"_target_": "optuna.samplers.QMCSampler"}])
@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
def test_samplers(sampler: Any, tmp_path: Path) -> None:
    study = search(tmp_path, "optimizer.lr=0.1,0.01,0.001", "seed=range(0,2)", "data.batch_size=32", sampler=sampler)
    drawn = []
    while (asked := study.ask()) is not None:
        drawn.append(tuple(asked[1][1:]))
        study.study.tell(asked[0], 0.5)
    assert len(drawn) == 6
    assert all(words[0] == "data.batch_size=32" for words in drawn)
    if sampler == "grid":
        assert len(set(drawn)) == 6, "each combination once"


def test_an_interrupted_trial_is_not_told(tmp_path: Path) -> None:
    study = search(tmp_path)
    number, words = study.ask() or (-1, [])
    write_run(tmp_path, words, "interrupted")
    study.tell(number)
    assert states(study) == ["RUNNING"]


class Launcher:
    """Hydra's launchers as far as a search uses them: each job leaves a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def launch(self, jobs: list[list[str]], initial_job_idx: int) -> None:
        write_run(self.folder, jobs[0], "failed" if initial_job_idx == 1 else "done", 0.1 * initial_job_idx)


def test_other_launchers_run_one_trial_at_a_time(tmp_path: Path) -> None:
    study = search(tmp_path)
    _, words = study.ask() or (-1, [])
    write_run(tmp_path, words, "interrupted")
    again = search(tmp_path)
    assert run_trials(again, Launcher(tmp_path)) == [1]
    assert states(again) == ["COMPLETE", "FAIL", "COMPLETE", "COMPLETE", "COMPLETE", "COMPLETE"]
    assert len(list(tmp_path.glob("attempt_trial=0,*"))) == 1, "what was interrupted is set aside"


# -- pruning -----------------------------------------------------------------------------------------------------------


def test_a_trial_behind_the_median_is_ended_when_its_epoch_is_over(tmp_path: Path) -> None:
    study = search(tmp_path)
    ended = []
    for number, level in enumerate((0.8, 0.7, 0.9, 0.1)):
        study.ask()
        callback = Pruning(number, MONITOR)
        callback.trial = open_trial(tmp_path, number)
        for epoch in range(3):
            callback.report({"epoch": epoch, "step": epoch, MONITOR: level + epoch / 100})
            trainer: Any = type("Trainer", (), {"world_size": 1})
            try:
                callback.on_train_epoch_start(trainer, None)  # type: ignore[arg-type]
            except Pruned as told:
                ended.append((number, epoch, str(told)))
                break
        status = "pruned" if ended else "done"
        write_run(tmp_path, [f"trial={number}"], status, level)
        study.tell(number)
    assert ended == [(3, 0, "val/accuracy 0.1000 after epoch 1 is behind other trials")]
    assert states(study) == ["COMPLETE", "COMPLETE", "COMPLETE", "PRUNED"]
    assert study.study.trials[1].intermediate_values == pytest.approx({0: 0.7, 1: 0.71, 2: 0.72})


def test_a_run_without_a_search_or_of_a_trial_that_is_over_is_left_alone(tmp_path: Path) -> None:
    assert open_trial(tmp_path, 0) is None
    study = search(tmp_path)
    number, words = study.ask() or (-1, [])
    assert open_trial(tmp_path, number) is not None
    write_run(tmp_path, words, "done", 0.5)
    study.tell(number)
    assert open_trial(tmp_path, number) is None
    assert study.study.trials[0].state is TrialState.COMPLETE


# -- the best ----------------------------------------------------------------------------------------------------------


def test_overrides_become_an_experiment() -> None:
    words = [
        "trial=3", "experiment=fcn", "model=unet", "+callbacks=ema", "optimizer.lr=0.001", "+model.channels=[4,8]",
        "name='a b'", "paths.outputs=x", "hydra.run.dir=y", "~scheduler", "trainer.max_epochs=3",
    ]  # fmt: skip
    content, rest = as_experiment(words, {"experiment", "model", "callbacks", "scheduler"})
    assert content == {
        "defaults": ["fcn", {"override /model": "unet"}, {"/callbacks": "ema"}],
        "optimizer": {"lr": 0.001}, "model": {"channels": [4, 8]}, "name": "a b", "trainer": {"max_epochs": 3},
    }  # fmt: skip
    assert rest == ["~scheduler"]


def test_the_best_experiment_composes_to_the_best_trials_config(tmp_path: Path) -> None:
    from lightbed.faults import Composer
    from lightbed.words import read

    study = search(tmp_path, "model=cnn,dnn", "optimizer=sgd", RATE, "experiment=fashion_mnist_dnn", trials=1)
    number, words = study.ask() or (-1, [])
    write_run(tmp_path, words, "done", 0.5)
    study.tell(number)
    run = study.run_of(number)
    assert run is not None
    command = write_best(tmp_path, run, study.summary())
    assert command.endswith("experiment=best")
    own = read("train", ["--config-dir", str(tmp_path), "experiment=best"])
    from lightbed.folders import register

    register([], dry=True)
    composed = [Composer(own)(own.overrides), Composer(read("train", words))(words)]
    best, trial = ({key: config._get_node(key) for key in config} for config in composed)
    for key in best.keys() - {"hydra", "paths", "trial"}:
        assert best[key] == trial[key], key
    assert best.keys() == trial.keys()
