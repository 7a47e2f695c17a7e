"""Multiruns on this machine: side by side, a failure costs one job, nothing changes them, and they can be resumed."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lightbed.cli import main

# a model that notes where it is made, and fails as it is told
PROBE = """
import os, pathlib, signal, sys, time
import lightbed
from lightbed.models.cnn import CNN

class Net(CNN):
    def __init__(self, what, notes, channels, in_channels, num_classes):
        super().__init__(in_channels, num_classes, channels)
        self.what, self.notes = what, pathlib.Path(notes)
        device = os.environ.get("CUDA_VISIBLE_DEVICES", "none")
        held = self.notes / f"{device}.held"
        held.touch(exist_ok=False)  # fails where two jobs are on one device
        time.sleep(0.1)
        held.unlink()
        with (self.notes / "seen").open("a") as file:
            import late  # read when this runs, not when the sweep begins

            main = pathlib.Path(sys.modules["__main__"].__file__).name
            file.write(f"{device} {os.getpid()} {os.getsid(0)} {main} {late.WORD} {lightbed.__file__}\\n")
        here = pathlib.Path(__file__)
        for path in (here, here.with_name("late.py"), self.notes / "conf" / "model" / "probe.yaml"):
            path.write_text("this is no longer what it was")

    def forward(self, images):
        if self.what == "once":
            self.what = "fine"
            try:
                (self.notes / "tried").touch(exist_ok=False)
            except FileExistsError:
                pass
            else:
                raise RuntimeError("fails once")
        if self.what == "raise":
            raise MemoryError("no room for it")
        if self.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.what == "exit":
            sys.exit(3)
        return super().forward(images)
"""
OPTION = "_target_: probe.Net\nwhat: fine\nnotes: ???\nchannels: [4]\nin_channels: auto\nnum_classes: auto\n"
QUICK = [
    "threads=1",
    "callbacks.layers=null",
    "trainer.max_epochs=0",
    "callbacks.pictures=null",
    "logger.tensorboard=false",
    "data.limit=64",
]
WHATS = "fine,raise,kill,exit,once,other"


@pytest.fixture
def probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The words of a multirun of probes, in a folder with the probe's code and config."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "probe.yaml").write_text(OPTION)
    (tmp_path / "probe.py").write_text(PROBE)
    (tmp_path / "late.py").write_text("WORD = 'first'\n")
    yield ["-cd", "conf", "model=probe", f"model.notes={tmp_path}", *QUICK, "hydra.sweep.dir=many"]
    sys.modules.pop("probe", None)


def jobs(folder: Path) -> dict[str, dict]:
    """The jobs of a sweep by their folders' names."""
    return {job["folder"]: job for job in json.loads((folder / "sweep.json").read_text())["jobs"]}


@pytest.mark.slow
def test_four_gpus_and_twelve_jobs_of_which_some_fail(
    probe: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No device has two jobs; failures cost one job each and are retried; code and configs are those of the start."""
    gpus = [f"{os.getpid()}-{i}" for i in range(4)]
    monkeypatch.setenv("LIGHTBED_GPUS", ",".join(gpus))
    words = [f"model.what={WHATS}", "seed=0,1", "sweep.retries=1"]
    assert main(["train", "-m", *probe, *words]) == 1
    shown = capsys.readouterr()
    found = jobs(tmp_path / "many")
    expected = {"raise": "failed", "kill": "killed", "exit": "failed"}
    statuses = {name: expected.get(what_of(name), "done") for name in found}
    assert len(found) == 12
    assert {name: job["status"] for name, job in found.items()} == statuses
    attempts = {name: len(job["attempts"]) for name, job in found.items()}
    assert sorted(attempts.pop(name) for name in list(attempts) if what_of(name) == "once") == [1, 2]
    assert attempts == {name: 2 if what_of(name) in expected else 1 for name in attempts}

    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert len(seen) == 19
    assert {line[0] for line in seen} == set(gpus)
    assert all(pid == session and main == "server.py" for _, pid, session, main, _, _ in seen)
    assert len({line[1] for line in seen}) == len(seen)
    frozen = tmp_path / "many" / "frozen"
    assert {(word, home) for *_, word, home in seen} == {("first", f"{frozen / 'code_1' / 'lightbed' / '__init__.py'}")}

    raised, killed = tmp_path / "many" / "model.what=raise,seed=0", tmp_path / "many" / "model.what=kill,seed=0"
    log = (raised / "log.txt").read_text()
    assert "Traceback" in log
    assert "MemoryError: no room for it" in log
    assert (raised / "attempt_1" / "run.json").is_file()
    assert "killed by SIGKILL, perhaps because memory ran out" in (killed / "log.txt").read_text()
    assert "6 of 12 jobs did not end well; `lightbed train -m resume=" in shown.err
    assert "no room for it" in shown.out
    assert "started again (attempt 2) on GPU" in shown.out

    # what is left runs again, with code that was mended; it is not ours, so it must be trusted
    (tmp_path / "probe.py").write_text(PROBE.replace("if self.what ==", "if None =="))
    (tmp_path / "late.py").write_text("WORD = 'second'\n")
    assert main(["train", "-m", "resume=many"]) == 2
    assert "model._target_=probe.Net is not trusted; trust=true" in capsys.readouterr().err
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")  # the code is found where the sweep began
    assert main(["train", "-m", "resume=../many", "trust=true"]) == 0
    shown = capsys.readouterr().out
    assert "6 jobs, 4 at a time" in shown
    assert "12 runs" in shown
    assert all(job["status"] == "done" for job in jobs(tmp_path / "many").values())
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()][19:]
    assert len(seen) == 6
    newest = max(frozen.glob("code_*"), key=lambda path: int(path.name[5:]))
    assert newest.name != "code_1"
    assert {(word, home) for *_, word, home in seen} == {("second", f"{newest / 'lightbed' / '__init__.py'}")}
    assert "second" in (newest / "own" / "late.py").read_text()
    records = {name: json.loads((tmp_path / "many" / name / "run.json").read_text()) for name in statuses}
    used = {name: [record, *record.get("resumed", [])][-1]["frozen_code"] for name, record in records.items()}
    assert used == {name: newest.name if what_of(name) in expected else "code_1" for name in statuses}
    assert Path.cwd() == tmp_path / "elsewhere"
    assert main(["train", "-m", "resume=../many"]) == 0
    assert "all 12 jobs are done" in capsys.readouterr().out


def what_of(name: str) -> str:
    """What the probe of a job's folder is to do."""
    return name.partition("=")[2].partition(",")[0]


def test_the_whole_sweep_is_checked_before_the_first_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A value that the class does not take, in one job of forty."""
    monkeypatch.chdir(tmp_path)
    values = ",".join("wide" if i == 37 else f"[{i + 1}]" for i in range(40))
    assert main(["train", "-m", *QUICK, "hydra.sweep.dir=many", f"model.channels={values}"]) == 2
    told = capsys.readouterr().err
    assert told.startswith("lightbed: job 37: model.channels=wide: CNN takes a list")
    assert "model.channels=wide)" in told
    assert not list((tmp_path / "many").glob("*/run.json"))


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["test=auto,last,bset"], "job 2: test=bset is not known: did you mean best"),
        (["name=a,'${nothing}'"], "Interpolation key 'nothing' not found (its overrides: "),
        (["hydra.launcher.jobs=0", "seed=0,1"], "hydra.launcher.jobs=0 must be a whole number of at least 1"),
        (["hydra.launcher.start=spoon", "seed=0,1"], "hydra.launcher.start=spoon is not known"),
        (["sweep.retries=-1", "seed=0,1"], "sweep.retries=-1 must be a whole number of at least 0"),
        (["hydra.sweeper.max_batch_size=1", "seed=0,1"], "hydra.sweeper.max_batch_size: say hydra.launcher.jobs=N"),
        (["hydra.sweep.dir=old", "hydra.sweep.subdir=a", "seed=0"], "old/a holds a run already: go on with resume="),
        (["resume=outputs"], "resume=outputs has no sweep.json"),
        (
            ["resume=basic"],
            "resume=basic was run with hydra/launcher=basic, which keeps no list of its jobs: go on with",
        ),
    ],
    ids=lambda value: str(value)[:30],
)
def test_faults_are_told_before_anything_runs(
    words: list[str], told: str, probe: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "old" / "a").mkdir(parents=True)
    (tmp_path / "old" / "a" / "run.json").write_text("{}")
    (tmp_path / "basic").mkdir()
    (tmp_path / "basic" / "multirun.yaml").touch()
    (tmp_path / "old" / "a").rename(tmp_path / "basic" / "a") if words == ["resume=basic"] else None
    line = words if words[0].startswith("resume") else [*probe, "model.what=fine", *words]
    assert main(["train", "-m", *line]) == 2
    shown = capsys.readouterr()
    assert told in shown.err
    assert shown.err.count("\n") == 1
    assert not (tmp_path / "seen").exists()


@pytest.mark.slow
def test_fail_fast_stops_the_others(probe: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In new Pythons, for the probe starts a thread where it is imported, which no fork would survive."""
    thread = "import threading, time\nthreading.Thread(target=time.sleep, args=(600,), daemon=True).start()\n"
    (tmp_path / "probe.py").write_text(thread + PROBE)
    words = ["model.what=raise,fine,other", "sweep.fail_fast=true", "hydra.launcher.jobs=1", "sweep.retries=0"]
    assert main(["train", "-m", *probe, *words]) == 1
    statuses = [job["status"] for job in jobs(tmp_path / "many").values()]
    assert statuses == ["failed", "waiting", "waiting"]
    assert (tmp_path / "seen").read_text().split()[3:5] == ["order.py", "first"]
    assert "3 of 3 jobs did not end well" in capsys.readouterr().err


# -- slow: real trainings in processes of their own --------------------------------------------------------------------

TRAINED = ["threads=1", "model.channels=[4]", "callbacks.pictures=null", "logger.tensorboard=false", "data.limit=300"]


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    """`lightbed train` in a process of its own."""
    command = [sys.executable, "-m", "lightbed", "train", *words, f"paths.outputs={folder}"]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def finish(process: subprocess.Popen[str]) -> None:
    """Wait for a process that must end well."""
    shown, _ = process.communicate()
    assert process.returncode == 0, shown


def wait_for(process: subprocess.Popen[str], there: object) -> None:
    """Wait until a condition holds; fail where the process ends before."""
    while not there():  # type: ignore[operator]
        assert process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


def family(pid: int) -> list[int]:
    """A process and all below it."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def figures(folder: Path) -> dict[str, dict]:
    """The final metrics of each job."""
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/metrics.json")}


@pytest.mark.slow
def test_a_killed_sweep_is_resumed_to_the_same_table(tmp_path: Path) -> None:
    words = ["-m", "seed=range(0,12)", "trainer.max_epochs=2", "callbacks.checkpoint.every_n_steps=2", *TRAINED]
    whole = start(tmp_path, *words, f"hydra.sweep.dir={tmp_path / 'whole'}")
    finish(whole)
    killed = start(tmp_path, *words, f"hydra.sweep.dir={tmp_path / 'many'}")
    wait_for(killed, lambda: len(figures(tmp_path / "many")) >= 4 and (tmp_path / "many" / "seed=4").is_dir())
    for pid in family(killed.pid):
        os.kill(pid, signal.SIGKILL)
    killed.communicate()
    # a job that was killed between its figures and the end of its run is not done
    states = {
        name: json.loads((tmp_path / "many" / name / "run.json").read_text()) for name in figures(tmp_path / "many")
    }
    done = [name for name, state in states.items() if state["status"] == "done"]
    assert 3 <= len(done) < 12
    before = {name: (tmp_path / "many" / name / "run.json").stat().st_mtime_ns for name in done}
    resumed = subprocess.run(
        [sys.executable, "-m", "lightbed", "train", "-m", f"resume={tmp_path / 'many'}"], capture_output=True, text=True
    )
    assert resumed.returncode == 0, resumed.stderr
    assert f"{12 - len(done)} jobs, " in resumed.stdout
    assert "12 runs" in resumed.stdout
    assert figures(tmp_path / "many") == figures(tmp_path / "whole")
    assert len(figures(tmp_path / "many")) == 12
    assert before == {name: (tmp_path / "many" / name / "run.json").stat().st_mtime_ns for name in done}


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_all_jobs_where_they_can_go_on(tmp_path: Path, number: int, code: int) -> None:
    folder = tmp_path / "many"
    words = ["-m", "seed=0,1,2", "trainer.max_epochs=5000", "hydra.launcher.jobs=2", f"hydra.sweep.dir={folder}"]
    process = start(tmp_path, *words, *TRAINED)
    wait_for(process, lambda: len(list(folder.glob("*/metrics.csv"))) == 2)
    children = family(process.pid)[1:]
    process.send_signal(number)
    shown, _ = process.communicate()
    assert process.returncode == code, shown
    assert "goes on" in shown
    assert not [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert [job["status"] for job in jobs(folder).values()] == ["interrupted", "interrupted", "waiting"]
    assert len(list(folder.glob("*/checkpoints/last.ckpt"))) == 2


@pytest.mark.slow
def test_jobs_end_with_a_killed_launcher(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    process = start(tmp_path, "-m", "seed=0,1", "trainer.max_epochs=5000", f"hydra.sweep.dir={folder}", *TRAINED)
    wait_for(process, lambda: list(folder.glob("*/metrics.csv")))
    children = family(process.pid)[1:]
    process.kill()
    process.communicate()
    while [pid for pid in children if Path(f"/proc/{pid}").exists()]:
        time.sleep(0.1)
    assert "interrupted" in {json.loads(file.read_text())["status"] for file in folder.glob("*/run.json")}


@pytest.mark.slow
def test_a_job_is_the_run_that_it_would_be_alone_also_in_two_processes(tmp_path: Path) -> None:
    """To the bit; with DDP the second process runs the job again, not the sweep."""
    ddp = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp"]
    for name, more in (("one", []), ("two", ddp)):
        words = [*TRAINED, "trainer.max_epochs=2", *more]
        alone = start(tmp_path, *words, "seed=1", f"hydra.run.dir={tmp_path / name}")
        finish(alone)
        many = start(tmp_path / "in", "-m", *words, "seed=0,1", f"hydra.sweep.dir={tmp_path / name / 'many'}")
        finish(many)
        found = figures(tmp_path / name / "many")
        assert list(found)
        assert found["seed=1"] == json.loads((tmp_path / name / "metrics.json").read_text())
        assert sorted(found) == ["seed=0", "seed=1"]
        assert not (tmp_path / "in").exists()


@pytest.mark.slow
def test_new_pythons_and_further_processes_run_the_code_of_the_start(probe: list[str], tmp_path: Path) -> None:
    """Two jobs of two processes each, which edit the code and the config as soon as they have read them."""
    ddp = ["trainer.accelerator=cpu", "trainer.devices=2", "trainer.strategy=ddp", "trainer.max_epochs=1"]
    for start in ("fork", "fresh"):
        shared = PROBE.replace("touch(exist_ok=False)", "touch()").replace("unlink()", "exists()")  # two at a time
        (tmp_path / "probe.py").write_text(shared)
        (tmp_path / "late.py").write_text("WORD = 'first'\n")
        (tmp_path / "conf" / "model" / "probe.yaml").write_text(OPTION)
        words = ["model.what=fine", "seed=0,1", *ddp, "hydra.launcher.jobs=1", f"hydra.launcher.start={start}"]
        command = [sys.executable, "-P", "-m", "lightbed", "train", "-m", *probe, *words, f"hydra.sweep.dir={start}"]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
        (tmp_path / "seen").unlink()
        home = tmp_path / start / "frozen" / "code_1" / "lightbed" / "__init__.py"
        assert [line[4:] for line in seen] == [["first", str(home)]] * 4
        assert {line[3] for line in seen} == {"order.py"} | ({"server.py"} if start == "fork" else set())
