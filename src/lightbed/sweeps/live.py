"""The jobs of a sweep as they run: a live table on a terminal, else a line for each change."""

import time
from collections import Counter
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lightbed.sweeps.collect import _history
from lightbed.sweeps.jobs import Job, Sweep, read_json

_STYLES = {"running": "cyan", "done": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}
_ORDER = ("running", "waiting", "failed", "killed", "interrupted", "done", "pruned")
_DRAWN = 1.0  # seconds between two drawings


class Watch:
    """Shows a sweep; a context manager.

    Args:
        sweep: whose jobs are shown.
        monitors: the monitored metric of each job, by its id.
        epochs: how many each job has, likewise.
    """

    def __init__(self, sweep: Sweep, monitors: dict[str, str], epochs: dict[str, int]) -> None:
        self.sweep, self.monitors, self.epochs = sweep, monitors, epochs
        self.console = Console()
        self.live: Live | None = None
        self.begun: dict[str, float] = {}
        self.seconds: dict[str, float] = {}
        self.drawn = 0.0

    def __enter__(self) -> "Watch":
        if self.console.is_terminal:
            self.live = Live(console=self.console, auto_refresh=False, transient=True)
            self.live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __call__(self, job: Job | None) -> None:
        """Show that a job's status changed; with None, that time has passed."""
        now = time.monotonic()
        if job is not None and job.status == "running":
            self.begun[job.id] = now
        elif job is not None:
            self.seconds[job.id] = now - self.begun.get(job.id, now)
        if self.live is None:
            if job is not None:
                print(self.line(job), flush=True)
        elif job is not None or now - self.drawn >= _DRAWN:
            self.drawn = now
            self.live.update(self.table(), refresh=True)

    def line(self, job: Job) -> str:
        """`[ 3/12] model=cnn,seed=1  done in 12.3 s  val/accuracy 0.9312`."""
        total = len(self.sweep.jobs)
        over = sum(one.status not in ("waiting", "running") for one in self.sweep.jobs)
        parts = [f"[{over:>{len(str(total))}}/{total}] {job.name}"]
        if job.status == "running":
            gpus = job.attempts[-1].get("gpus")
            again = f" again (attempt {len(job.attempts)})" if len(job.attempts) > 1 else ""
            parts.append(f"started{again}{' on GPU ' + ','.join(gpus) if gpus else ''}")
        else:
            parts.append(f"{job.status} after {self.seconds.get(job.id, 0.0):.1f} s")
            parts += [job.error] if job.error else [f"{name} {value}" for name, value in self.metric(job)]
        return "  ".join(parts)

    def metric(self, job: Job) -> list[tuple[str, str]]:
        """The monitored metric's name and last value, where there is one."""
        name = self.monitors.get(job.id, "")
        final = read_json(job.folder / "metrics.json") if job.status in ("done", "pruned") else {}
        rows = [final] if name in final else _history(job.folder / "metrics.csv")
        return [(name, f"{rows[-1][name]:.4f}")] if rows and name in rows[-1] else []

    def table(self) -> Group:
        """All jobs with what they do, those that run first; as many as the terminal has lines for."""
        counts = Counter(job.status for job in self.sweep.jobs)
        told = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
        drawn = Table(box=SIMPLE_HEAD, show_edge=False, title=told, title_justify="left", title_style="bold")
        for name in ("job", "status", "epoch", "metric", "seconds"):
            drawn.add_column(name, justify="left" if name in ("job", "status", "metric") else "right", no_wrap=True)
        jobs = sorted(self.sweep.jobs, key=lambda job: (_ORDER.index(job.status), job.number))
        room = max(self.console.height - 6, 3)
        for job in jobs[:room]:
            drawn.add_row(*self.cells(job))
        rest = [Text(f"... and {len(jobs) - room} more")] if len(jobs) > room else []
        return Group(drawn, *rest)

    def cells(self, job: Job) -> list[Text]:
        """A row of the table."""
        rows = _history(job.folder / "metrics.csv") if job.status != "waiting" else []
        epoch = f"{int(rows[-1]['epoch']) + 1}/{self.epochs.get(job.id, '?')}" if rows else ""
        metric = job.error or "  ".join(" ".join(pair) for pair in self.metric(job))
        since = self.begun.get(job.id)
        taken = time.monotonic() - since if job.status == "running" and since else self.seconds.get(job.id)
        seconds = "" if taken is None else f"{taken:.0f}"
        status = Text(job.status, style=_STYLES.get(job.status, ""))
        return [Text(job.name), status, Text(epoch), Text(metric), Text(seconds)]
