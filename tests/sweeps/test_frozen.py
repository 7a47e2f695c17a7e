"""Jobs are composed as Hydra composes them, written down, and read back as they were."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.utils import setup_globals
from hydra.types import RunMode
from omegaconf import OmegaConf

from lightbed import folders
from lightbed.catalogue import conf_dir
from lightbed.errors import UserError
from lightbed.sweeps.frozen import Composition, freeze, thaw
from lightbed.sweeps.jobs import FILE, Sweep, digest, set_aside, write_json

JOBS = [
    ["model=cnn", "seed=1", "optimizer.lr=0.01"],
    ["optimizer.lr=0.02", "model=cnn", "seed=1"],
    ["model=dnn", "model.hidden=[8]", "augment=flip_crop"],
    ["+task.metrics={kappa:{_target_:torchmetrics.classification.MulticlassCohenKappa,num_classes:10}}", "seed=2"],
    ["experiment=fashion_mnist_dnn", "~callbacks.pictures", "name=a"],
    ["data={_target_:mine.Data,batch_size:3}"],  # a dict in place of a group's option
]


@pytest.fixture
def hydra(tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """Hydra's loader, and the config of a multirun in `tmp_path`."""
    words = ["model=cnn,dnn", "seed=1,2", f"paths.outputs={tmp_path}"]
    folders.register(words, dry=True)
    setup_globals()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        own = GlobalHydra.instance().hydra
        master = own.compose_config("train", ["+hydra.job.env_set.MARK=x", *words], run_mode=RunMode.MULTIRUN)
        yield own.config_loader, master


@pytest.mark.parametrize("words", JOBS, ids=" ".join)
def test_a_composition_is_hydras_own(hydra: tuple[Any, Any], words: list[str]) -> None:
    loader, master = hydra
    ours = Composition(loader)
    for other in JOBS[:2]:  # what is shared stays as it was
        ours.load_sweep_config(master, other)
    theirs = loader.load_sweep_config(master, words)
    found = ours.take(master, words)
    assert OmegaConf.to_yaml(found, resolve=False) == OmegaConf.to_yaml(theirs, resolve=False)
    assert OmegaConf.is_struct(found)


def test_a_frozen_job_is_read_back_as_it_was(hydra: tuple[Any, Any], tmp_path: Path) -> None:
    loader, master = hydra
    words = ["model=dnn", "seed=7", "optimizer.lr=1e-05", f"paths.outputs={tmp_path}"]
    content = json.loads(json.dumps(freeze(Composition(loader).take(master, words), 37)))
    folder = Path(content["folder"])
    assert folder.parent.parent == tmp_path / "classifier"
    assert folder.name == "model=dnn,seed=7"
    assert content["config"]["data"]["seed"] == 7  # references are filled in
    config = thaw(content)
    assert config.hydra.mode is RunMode.MULTIRUN
    assert thaw(content, single=True).hydra.mode is RunMode.RUN
    assert config.hydra.job.num == 37
    assert config.hydra.job.env_set.MARK == "x"
    assert config.hydra.run.dir == config.hydra.runtime.output_dir == str(folder)
    assert list(config.hydra.overrides.task) == words
    assert config.hydra.runtime.choices.model == "dnn"
    del config["hydra"]
    assert OmegaConf.to_container(config, resolve=True) == content["config"]


def test_a_key_that_must_be_given(hydra: tuple[Any, Any]) -> None:
    loader, master = hydra
    with pytest.raises(UserError, match=r"please give data.root=\.\.\."):
        freeze(Composition(loader).take(master, ["data=image_folder"]), 0)


def test_a_job_that_does_not_compose_is_named(hydra: tuple[Any, Any]) -> None:
    loader, master = hydra
    ours = Composition(loader)
    ours.load_sweep_config(master, ["model=cnn", "seed=0"])
    with pytest.raises(UserError) as told:
        ours.load_sweep_config(master, ["model=resnt18", "seed=0"])
    assert str(told.value).startswith("job 1: model=resnt18 does not exist: did you mean resnet18")
    with pytest.raises(UserError, match=r"modle does not exist: did you mean model\? \(its overrides: modle=cnn\)"):
        ours.load_sweep_config(master, ["modle=cnn"])


def test_ids_follow_from_content() -> None:
    assert digest(["seed=0", "model=cnn"]) == digest(["model=cnn", "seed=0"]) != digest(["model=cnn", "seed=1"])


def test_a_sweep_is_read_back_with_what_its_jobs_folders_say(tmp_path: Path) -> None:
    sweep = Sweep(tmp_path, ["train", "-m"])
    for seed, status in enumerate(["done", "running", "failed", "interrupted", None, "done"]):
        words = [f"seed={min(seed, 4)}"]  # the last is the same again
        job = sweep.add(seed, words, {"folder": str(tmp_path / f"seed={seed}"), "config": {}})
        if status:
            job.folder.mkdir()
            write_json(job.folder / "run.json", {"status": status})
    sweep.write()
    found = Sweep.read(tmp_path)
    statuses = ["done", "killed", "failed", "interrupted", "waiting", "done"]
    assert [job.status for job in found.jobs] == statuses
    assert found.words == ["train", "-m"]
    assert [(job.id, job.frozen, job.overrides) for job in found.jobs] == [
        (job.id, job.frozen, job.overrides) for job in sweep.jobs
    ]
    assert len({job.id for job in found.jobs}) == 6
    assert all(job.frozen.is_file() for job in found.jobs)
    (tmp_path / FILE).write_text("{")
    with pytest.raises(UserError, match=r"sweep.json cannot be read"):
        Sweep.read(tmp_path)


def test_one_process_at_a_time_runs_a_sweep(tmp_path: Path) -> None:
    with Sweep(tmp_path, []).alone(), pytest.raises(UserError, match="still going on"), Sweep(tmp_path, []).alone():
        pass
    with Sweep(tmp_path, []).alone():
        pass


def test_what_a_failed_attempt_left_is_kept(tmp_path: Path) -> None:
    for text in ("first", "second"):
        write_json(tmp_path / "run.json", {"status": text})
        (tmp_path / "log.txt").write_text(text)
        set_aside(tmp_path)
        assert not (tmp_path / "run.json").exists()
    set_aside(tmp_path)  # there is no run to set aside
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["attempt_1", "attempt_2"]
    assert (tmp_path / "attempt_2" / "log.txt").read_text() == "second"
