"""Multiruns on Ray: a real one of this machine, with a fake GPU that two jobs share."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from cluster_jobs import probes

from lightbed.cli import main

HERE = Path(__file__).parent


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
    env = {**os.environ, "PYTHONPATH": path, "RAY_USAGE_STATS_ENABLED": "0"}
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
