"""Multiruns on Slurm: a real one of two nodes, with accounting and two fake GPUs, in its own namespaces."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import slurm_node
from cluster_jobs import PATIENCE, QUICK, probes, states

from exact import result
from lightbed.cli import main

HERE = Path(__file__).parent
APART = ["--net", "--pid", "--fork", "--kill-child", "--mount-proc"]


def test_without_slurm_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    words = ["train", "-m", "seed=0,1", "hydra/launcher=slurm", f"paths.outputs={tmp_path}"]
    for more, told in (
        ([], "hydra/launcher=slurm needs Slurm's sbatch, which is not here: start it on a login node"),
        (["hydra.launcher.minutes=0"], "hydra.launcher.minutes=0 must be a whole number of at least 1"),
        (["hydra.launcher.gpus_per_job=0.5"], "hydra.launcher.gpus_per_job=0.5 must be a whole number of at least 0"),
    ):
        assert main([*words, *more]) == 2
        assert capsys.readouterr().err == f"lightbed: {told}\n"
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(words) == 2
    assert "needs submitit: pip install 'lightbed[sweep]'" in capsys.readouterr().err


class Cluster:
    """The real one, as commands see it.

    Args:
        process: holds its network.
        folder: its own.
    """

    def __init__(self, process: subprocess.Popen[str], folder: Path) -> None:
        self.inside = ["nsenter", f"--net=/proc/{process.pid}/ns/net", "--"]
        self.env = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf"), "OMP_NUM_THREADS": "1"}
        self.env["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])

    def start(self, *words: str) -> subprocess.Popen[str]:
        """`lightbed train -m` on it."""
        command = [*self.inside, sys.executable, "-m", "lightbed", "train", "-m", *words]
        return subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )

    def ask(self, *command: str) -> str:
        """What a command of Slurm prints."""
        return subprocess.run([*self.inside, *command], env=self.env, check=True, capture_output=True, text=True).stdout

    def wait_for(self, process: subprocess.Popen[str], there: object) -> None:
        """Wait until a condition holds; fail where the process ends before."""
        until = time.monotonic() + PATIENCE
        while not there():  # type: ignore[operator]
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < until, self.ask("squeue", "--long")
            time.sleep(0.1)

    def release(self, process: subprocess.Popen[str], job: str) -> None:
        """Let a job that was queued again start now; Slurm would hold it for two minutes."""
        self.wait_for(
            process, lambda: self.ask("squeue", "-h", "-j", job, "-o", "%T %r").strip() == "PENDING BeginTime"
        )
        self.ask("scontrol", "update", f"JobId={job}", "StartTime=now")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A Slurm that is gone, with all its processes and files, when the tests are over, however they end."""
    os.environ["PATH"] += os.pathsep + "/usr/sbin"
    missing = [name for name in (*slurm_node.PROGRAMS, "nsenter") if shutil.which(name) is None]
    if missing:
        pytest.skip(f"no {', '.join(missing)}: apt-get install slurm-wlm munge slurmdbd mariadb-server iproute2")
    if subprocess.run(["unshare", *APART, "true"], capture_output=True).returncode:
        pytest.skip("unshare --net --pid is not allowed here; it takes root")
    folder = Path(tempfile.mkdtemp(prefix="lightbed-slurm-"))
    folder.chmod(0o755)  # munged refuses 0700
    command = ["unshare", *APART, sys.executable, str(HERE / "slurm_node.py"), str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        told = process.stdout.readline().strip()
        assert told == "ready", told
        yield Cluster(process, folder)
    finally:
        process.stdin.close()
        try:
            process.wait(120)
        finally:
            process.kill()
            process.wait()
            process.stdout.close()
            shutil.rmtree(folder)


def jobs(folder: Path) -> dict[str, dict]:
    """The jobs of a sweep by their folders' names."""
    return {job["folder"]: job for job in json.loads((folder / "sweep.json").read_text())["jobs"]}


@pytest.mark.slow
def test_failures_cost_one_job_each_and_each_has_a_gpu(cluster: Cluster, tmp_path: Path) -> None:
    """One raises, one is killed; resuming the sweep runs these alone, on Slurm again."""
    many = tmp_path / "many"
    slurm = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_job=1", "hydra.launcher.jobs=3"]
    slurm += ["hydra.launcher.minutes=30", "hydra.launcher.cpus_per_task=1", "+hydra.launcher.options.comment=probe"]
    process = cluster.start(*probes(tmp_path, "fine,raise,kill,other"), *slurm, f"hydra.sweep.dir={many}")
    shown, _ = process.communicate()
    assert process.returncode == 1, shown
    statuses = {name.partition("=")[2]: job["status"] for name, job in jobs(many).items()}
    assert statuses == {"fine": "done", "other": "done", "raise": "failed", "kill": "killed"}, shown
    seen = [line.split() for line in (tmp_path / "seen").read_text().splitlines()]
    assert len(seen) == 4
    assert {device for _, device in seen} == {"0", "1"}
    assert "MemoryError: no room for it" in (many / "model.what=raise" / "log.txt").read_text()
    assert "killed by SIGKILL" in (many / "model.what=kill" / "log.txt").read_text()
    assert "2 of 4 jobs did not end well" in shown
    told = {job["attempts"][0]["slurm"]: name.partition("=")[2] for name, job in jobs(many).items()}
    states = dict(line.split("|") for line in cluster.ask("sacct", "-X", "-n", "-P", "-o", "JobID,State").splitlines())
    assert {told[number]: state for number, state in states.items() if number in told} == {
        "fine": "COMPLETED", "other": "COMPLETED", "raise": "FAILED", "kill": "FAILED",
    }  # fmt: skip

    again = cluster.start(f"resume={many}", "trust=true")
    shown, _ = again.communicate()
    assert again.returncode == 1, shown
    assert "2 jobs, 2 at a time" in shown
    assert sorted(line.split()[0] for line in (tmp_path / "seen").read_text().splitlines()[4:]) == ["kill", "raise"]
    assert (many / "model.what=raise" / "attempt_1" / "run.json").is_file()


@pytest.mark.slow
def test_a_preempted_job_goes_on_to_the_same_bits(cluster: Cluster, tmp_path: Path) -> None:
    """One job is left alone, one queued again, one comes to its time limit; the launcher is killed meanwhile.

    Another sweep's job is on a node that a partition of higher priority takes.
    """
    many, low = tmp_path / "many", tmp_path / "low"
    meet = "+callbacks.meet={_target_:cluster_jobs.Meet,names:[moved,late,pushed],name:${name}}"
    words = [meet, "trainer.max_epochs=3", "model.channels=[4]", "hydra/launcher=slurm", *QUICK]
    process = cluster.start("name=still,moved,late", *words, f"hydra.sweep.dir={many}")
    other = cluster.start("name=pushed", *words, "+hydra.launcher.options.partition=low", f"hydra.sweep.dir={low}")
    moved, late = many / "name=moved", many / "name=late"
    cluster.wait_for(process, lambda: (moved / "met").exists() and (late / "met").exists())
    cluster.wait_for(other, lambda: list(low.glob("*/met")))
    ((name, job),) = jobs(low).items()
    pushed, number = low / name, job["attempts"][-1]["slurm"]
    numbers = {name: job["attempts"][-1]["slurm"] for name, job in jobs(many).items()}
    process.kill()
    process.communicate()
    again = cluster.start(f"resume={many}", "trust=true")
    cluster.ask("scontrol", "requeue", numbers["name=moved"])
    cluster.ask("scancel", "--signal=USR2", numbers["name=late"])
    cluster.ask("sbatch", "--partition=high", "--output=/dev/null", "--wrap=sleep 1")
    cluster.release(other, number)
    for name in ("name=moved", "name=late"):
        cluster.release(again, numbers[name])
    shown, _ = again.communicate()
    assert again.returncode == 0, shown
    assert all(job["status"] == "done" for job in jobs(many).values())
    for name in ("name=moved", "name=late"):
        assert jobs(many)[name]["attempts"][-1]["slurm"] == numbers[name]  # taken over, not queued anew
        record = json.loads((many / name / "run.json").read_text())
        assert [entry["step"] for entry in record["resumed"]] == [5]
        assert result(many / name) == result(many / "name=still")
    assert "the time limit is near" in (late / "console.log").read_text()
    shown, _ = other.communicate()
    assert other.returncode == 0, shown
    assert [entry["step"] for entry in json.loads((pushed / "run.json").read_text())["resumed"]] == [5]
    assert result(pushed) == result(many / "name=still")
    assert "REQUEUED" in cluster.ask("sacct", "-D", "-X", "-n", "-P", "-j", numbers["name=moved"], "-o", "State")


@pytest.mark.slow
def test_ctrl_c_ends_all_jobs_where_they_can_go_on(cluster: Cluster, tmp_path: Path) -> None:
    many = tmp_path / "many"
    meet = "+callbacks.meet={_target_:cluster_jobs.Meet,names:[a,b],name:${name}}"
    words = ["name=a,b,c", meet, "trainer.max_epochs=3", "model.channels=[4]", "hydra/launcher=slurm"]
    process = cluster.start(*words, *QUICK, "hydra.launcher.jobs=2", f"hydra.sweep.dir={many}")
    cluster.wait_for(process, lambda: len(list(many.glob("*/met"))) == 2)
    process.send_signal(signal.SIGINT)
    shown, _ = process.communicate()
    assert process.returncode == 130, shown
    assert "goes on" in shown
    assert [job["status"] for job in jobs(many).values()] == ["interrupted", "interrupted", "waiting"]
    assert len(list(many.glob("*/checkpoints/last.ckpt"))) == 2
    assert not cluster.ask("squeue", "-h").strip()


@pytest.mark.slow
def test_two_tasks_are_one_run(cluster: Cluster, tmp_path: Path) -> None:
    """DDP in two tasks of a node, or on two nodes, gives what two processes give without Slurm, in one folder."""
    words = ["trainer=ddp", *QUICK, "trainer.max_epochs=1", "model.channels=[4]", "seed=1"]
    pair = ["trainer.devices=1", "trainer.num_nodes=2", "+hydra.launcher.options.partition=pair"]
    sweeps = {tmp_path / "tasks": ["trainer.devices=2"], tmp_path / "nodes": pair}
    started = [
        cluster.start(*words, *more, "hydra/launcher=slurm", f"hydra.sweep.dir={many}") for many, more in sweeps.items()
    ]
    alone = [
        sys.executable,
        "-m",
        "lightbed",
        "train",
        *words,
        "trainer.devices=2",
        f"hydra.run.dir={tmp_path / 'alone'}",
    ]
    assert subprocess.run([*alone, f"paths.outputs={tmp_path}"], env=cluster.env, capture_output=True).returncode == 0
    for many, process in zip(sweeps, started, strict=True):
        shown, _ = process.communicate()
        assert process.returncode == 0, shown
        (folder,) = (path.parent for path in many.glob("*/run.json"))
        assert [job["status"] for job in jobs(many).values()] == ["done"]
        assert result(folder) == result(tmp_path / "alone")
    name = jobs(tmp_path / "nodes").popitem()[1]["attempts"][0]["slurm"]
    assert cluster.ask("sacct", "-X", "-n", "-P", "-j", name, "-o", "NNodes").strip() == "2"


@pytest.mark.slow
def test_a_search_goes_on_without_the_trial_that_is_killed(cluster: Cluster, tmp_path: Path) -> None:
    """It is told to the study as a failure; the others are complete, and the best is written down."""
    many = tmp_path / "many"
    slurm = ["hydra/launcher=slurm", "hydra.launcher.gpus_per_job=1", "hydra.launcher.jobs=2"]
    search = ["hydra/sweeper=optuna", "hydra.sweeper.sampler=grid", "hydra.sweeper.trials=3", "trainer.max_epochs=1"]
    process = cluster.start(*probes(tmp_path, "fine,kill,other"), *slurm, *search, f"hydra.sweep.dir={many}")
    shown, _ = process.communicate()
    assert process.returncode == 1, shown
    assert states(many) == {"fine": "COMPLETE", "kill": "FAIL", "other": "COMPLETE"}, shown
    assert "experiment=best" in shown
