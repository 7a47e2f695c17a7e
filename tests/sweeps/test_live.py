"""What is shown of a sweep while it runs."""

from pathlib import Path

import pytest
from rich.console import Console

from lightbed.sweeps.jobs import Job, Sweep, write_json
from lightbed.sweeps.live import Watch, shortened


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


def shown(watch: Watch, width: int, height: int) -> list[str]:
    """The lines of the table on a terminal of this size."""
    watch.console = Console(width=width, height=height, record=True)
    watch.console.print(watch.table())
    return [line for line in watch.console.export_text().splitlines() if line.strip()]


def test_the_table_shows_first_what_runs(watch: Watch) -> None:
    rows = [line.split() for line in shown(watch, 80, 24)]
    assert " ".join(rows[0]) == "1 running, 1 failed, 1 done, 1 waiting"
    assert rows[1] == ["job", "status", "epoch", "val/accuracy", "seconds"]
    assert rows[3:] == [
        ["seed=2", "running", "3/5", "0.7500"],
        ["seed=1", "failed", "3/5", "RuntimeError:", "no", "luck"],
        ["seed=0", "done", "3/5", "0.6250"],
        ["seed=3", "waiting"],
    ]
    watch.monitors["0"] = "val/loss"
    assert "val/accuracy 0.7500" in shown(watch, 80, 24)[3]


def test_a_low_terminal_has_the_first_rows_only(watch: Watch) -> None:
    assert shown(watch, 80, 9)[-1] == "... and 1 more"


@pytest.mark.parametrize("width", [60, 80, 120])
def test_long_names_and_errors_leave_room_for_the_rest(watch: Watch, width: int) -> None:
    for seed, job in enumerate(watch.sweep.jobs):
        job.folder = job.folder.rename(job.folder.with_name(f"model.channels=16-32-64,optimizer.lr=0.001,seed={seed}"))
    watch.sweep.jobs[1].error = "RuntimeError: " + "mat1 and mat2 shapes cannot be multiplied " * 3
    watch.seconds["0"] = 12345.0
    lines = shown(watch, width, 24)
    assert all(len(line) <= width for line in lines)
    assert lines[3].split()[1:] == ["running", "3/5", "0.7500"]
    assert lines[4].split()[1:3] == ["failed", "3/5"]
    assert "RuntimeE" in lines[4]
    assert lines[5].split()[1:] == ["done", "3/5", "0.6250", "12345"]
    forms = {60: "16-32-64,0.001,2", 80: "16-32-64,0.001,2", 120: "model.channels=16-32-64,optimizer.lr=0.001,seed=2"}
    assert lines[3].split()[0] == forms[width]


def test_names_too_long_for_any_form_keep_both_ends() -> None:
    assert shortened(["a.b=1,c.d=2"], 11) == ["a.b=1,c.d=2"]
    assert shortened(["a.b=1,c.d=2"], 10) == ["b=1,d=2"]
    assert shortened(["a.b=1,c.d=2", "e=0.5,g=4"], 6) == ["1,2", "0.5,4"]
    assert shortened([f"name={'x' * 20}9"], 7) == ["xxx…xx9"]


def test_on_a_terminal_failures_stay(watch: Watch) -> None:
    watch.console = Console(width=80, height=24, record=True, force_terminal=True)
    with watch:
        for job in watch.sweep.jobs:
            watch(job)
    assert "seed=1  failed after 0.0 s  RuntimeError: no luck" in watch.console.export_text()
