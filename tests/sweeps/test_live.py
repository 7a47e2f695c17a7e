"""What is shown of a sweep while it runs."""

from pathlib import Path

import pytest
from rich.console import Console

from lightbed.sweeps.jobs import Job, Sweep, write_json
from lightbed.sweeps.live import Watch


@pytest.fixture
def watch(tmp_path: Path) -> Watch:
    """Four jobs: two over, one in its third epoch, one to come."""
    sweep = Sweep(tmp_path, [])
    for seed, status in enumerate(["done", "failed", "running", "waiting"]):
        job = Job(str(seed), seed, [], tmp_path / f"seed={seed}", tmp_path / "x", status)
        job.folder.mkdir()
        sweep.jobs.append(job)
        if status != "waiting":
            (job.folder / "metrics.csv").write_text("epoch,val/accuracy\n0,0.5\n1,0.6\n2,0.75\n")
            job.attempts = [{"gpus": ["2"]}]
    sweep.jobs[1].error = "RuntimeError: no luck"
    write_json(sweep.jobs[0].folder / "metrics.json", {"val/accuracy": 0.625})
    names = [job.id for job in sweep.jobs]
    return Watch(sweep, dict.fromkeys(names, "val/accuracy"), dict.fromkeys(names, 5))


def test_a_line_for_each_change(watch: Watch, capsys: pytest.CaptureFixture[str]) -> None:
    with watch:
        for job in watch.sweep.jobs[:3]:
            watch(job)
        watch(None)  # time has passed, which is no news
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        "[2/4] seed=0  done after 0.0 s  val/accuracy 0.6250",
        "[2/4] seed=1  failed after 0.0 s  RuntimeError: no luck",
        "[2/4] seed=2  started on GPU 2",
    ]


def test_the_table_shows_first_what_runs(watch: Watch) -> None:
    watch.console = Console(width=80, height=24, record=True)
    watch.console.print(watch.table())
    rows = [line.split() for line in watch.console.export_text().splitlines() if line.strip()]
    assert " ".join(rows[0]) == "1 running, 1 waiting, 1 failed, 1 done"
    assert rows[1] == ["job", "status", "epoch", "metric", "seconds"]
    assert rows[3:] == [
        ["seed=2", "running", "3/5", "val/accuracy", "0.7500"],
        ["seed=3", "waiting"],
        ["seed=1", "failed", "3/5", "RuntimeError:", "no", "luck"],
        ["seed=0", "done", "3/5", "val/accuracy", "0.6250"],
    ]


def test_a_low_terminal_has_the_first_rows_only(watch: Watch) -> None:
    watch.console = Console(width=80, height=9, record=True)
    watch.console.print(watch.table())
    assert "... and 1 more" in watch.console.export_text()
