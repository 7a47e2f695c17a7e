"""Multiruns on Ray: a real one of this machine, with a fake GPU that two jobs share."""

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from cluster_jobs import PATIENCE, probes, states

from lightbed.cli import main
from lightbed.errors import UserError
from lightbed.sweeps.on_ray import Actors, Ray

HERE = Path(__file__).parent
OWN = {
    "RAY_memory_monitor_refresh_ms": "0",  # or Ray kills jobs where other programs have taken the memory
    "RAY_AUTH_MODE": "disabled",  # or it leaves a token in the home of whoever runs the tests
}


def test_without_ray_one_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "-m", "seed=0,1", "hydra/launcher=ray", f"paths.outputs={tmp_path}"]
    monkeypatch.setitem(sys.modules, "ray", None)
    for more, told in (
        ([], "hydra/launcher=ray needs Ray: pip install 'lightbed[ray]'"),
        (["hydra.launcher.gpus_per_job=-1"], "hydra.launcher.gpus_per_job=-1 must be a number of at least 0, e.g. 0.5"),
        (["hydra.launcher.cpus_per_job=1.5"], "hydra.launcher.cpus_per_job=1.5: Ray shares out whole ones, or a part"),
    ):
        assert main([*words, *more]) == 2
        assert capsys.readouterr().err == f"lightbed: {told}\n"


def test_a_job_that_no_node_has_room_for_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    """Ray would let it wait for ever."""
    nodes = [{"Alive": True, "Resources": {"CPU": 4.0}}, {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}}]
    engine = Actors.__new__(Actors)
    engine.ray, engine.settings, engine.told = SimpleNamespace(nodes=lambda: nodes), Ray(), False
    engine._check_room(4, 0)
    for cores, gpus in ((5, 0), (1, 0.5)):
        with pytest.raises(UserError, match=f"takes {cores} cores and {gpus} GPUs .* have 4 cores and 0 GPUs"):
            engine._check_room(cores, gpus)
    engine.settings = Ray(init={"address": "auto"})  # one that is there may grow
    for _ in range(2):
        engine._check_room(5, 0)
    assert capsys.readouterr().err.count("jobs wait until there is one with as much") == 1


@pytest.mark.slow
def test_two_jobs_share_a_gpu_and_a_killed_one_costs_itself(tmp_path: Path) -> None:
    """The two meet each other on it, so they were there at the same time."""
    pytest.importorskip("ray")
    many = tmp_path / "many"
    own = {"num_gpus": 1, "num_cpus": 2, "include_dashboard": False, "_node_ip_address": "127.0.0.1"}
    ray = ["hydra/launcher=ray", "hydra.launcher.gpus_per_job=0.5", "hydra.launcher.cpus_per_job=1"]
    ray += [f"+hydra.launcher.init.{key}={value}" for key, value in own.items()]
    words = [*probes(tmp_path, "meet,kill"), "seed=0,1", *ray, f"hydra.sweep.dir={many}"]
    command = [sys.executable, "-m", "lightbed", "train", "-m", *words]
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **OWN}
    # a short path, for its sockets
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        command.append(f"+hydra.launcher.init._temp_dir={scratch}")
        done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 1, done.stdout + done.stderr
    jobs = {job["folder"]: job for job in json.loads((many / "sweep.json").read_text())["jobs"]}
    statuses = {"model.what=meet": "done", "model.what=kill": "killed"}
    assert {name: job["status"] for name, job in jobs.items()} == {
        name: statuses[name.partition(",")[0]] for name in jobs
    }, done.stdout
    assert len(jobs) == 4
    assert [line.split()[1] for line in (tmp_path / "seen").read_text().splitlines()] == ["0"] * 4
    assert "killed by SIGKILL" in (many / "model.what=kill,seed=0" / "log.txt").read_text()
    assert "2 of 4 jobs did not end well" in done.stderr


@pytest.mark.slow
def test_a_search_on_a_cluster_that_is_there_goes_on_without_a_killed_trial(tmp_path: Path) -> None:
    """It is joined by its address, its GPUs are shared, and it is still there afterwards."""
    pytest.importorskip("ray")
    many = tmp_path / "many"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.pathsep.join([str(HERE), *filter(None, [os.environ.get("PYTHONPATH")])])
    env = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0", **OWN}
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        head = [
            sys.executable,
            "-m",
            "ray.scripts.scripts",
            "start",
            "--head",
            "--block",
            "--num-cpus=2",
            "--num-gpus=1",
        ]
        head += ["--node-ip-address=127.0.0.1", f"--port={address.partition(':')[2]}", "--include-dashboard=false"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        cluster = subprocess.Popen([*head, f"--temp-dir={scratch}"], env=env, **quiet)  # type: ignore[call-overload]
        try:
            until = time.monotonic() + PATIENCE
            while not list(Path(scratch).glob("session_*/sockets/raylet*")):
                assert cluster.poll() is None
                assert time.monotonic() < until
                time.sleep(0.2)
            ray = ["hydra/launcher=ray", "hydra.launcher.gpus_per_job=0.5", "hydra.launcher.cpus_per_job=1"]
            ray += [f"+hydra.launcher.init.address='{address}'", f"hydra.sweep.dir={many}"]
            search = [
                "hydra/sweeper=optuna",
                "hydra.sweeper.sampler=grid",
                "hydra.sweeper.trials=2",
                "trainer.max_epochs=1",
            ]
            command = [sys.executable, "-m", "lightbed", "train", "-m", *probes(tmp_path, "other,kill"), *ray, *search]
            done = subprocess.run(command, env=env, capture_output=True, text=True)
            assert done.returncode == 1, done.stdout + done.stderr
            assert states(many) == {"other": "COMPLETE", "kill": "FAIL"}, done.stdout
            assert [line.split()[1] for line in (tmp_path / "seen").read_text().splitlines()] == ["0"] * 2
            assert cluster.poll() is None
        finally:
            os.killpg(cluster.pid, signal.SIGTERM)
            cluster.wait()
