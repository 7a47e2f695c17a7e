"""The jobs of a sweep as they run: a live table on a terminal, else a line for each change."""

import re
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from lightbed.sweeps.collect import _history
from lightbed.sweeps.jobs import OVER, Job, Sweep, read_json

_STYLES = {"running": "cyan", "done": "green", "failed": "red", "killed": "red", "interrupted": "yellow"}
_ORDER = ("running", "failed", "killed", "interrupted", "done", "pruned", "waiting")
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
            if job is not None and job.status in ("failed", "killed"):  # stays above the table
                self.console.print(Text(self.line(job)))
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
        """The jobs with what they do, those that run first, then what went wrong; as many as there are lines for.

        What all must show - status, epoch, seconds - is never cut; names are shortened to what tells them apart.
        """
        counts = Counter(job.status for job in self.sweep.jobs)
        told = ", ".join(f"{counts[status]} {status}" for status in _ORDER if counts[status])
        # of those that are over, the last ones first
        jobs = sorted(
            self.sweep.jobs,
            key=lambda job: (_ORDER.index(job.status), -job.number if job.status in OVER else job.number),
        )
        room = max(self.console.height - 6, 3)
        monitors = set(self.monitors.values())
        head = monitors.pop() if len(monitors) == 1 else "metric"
        heads = ("job", "status", "epoch", head, "seconds")
        rows = [self.cells(job, named=head == "metric") for job in jobs[:room]]
        widths = self._widths([heads, *rows])
        drawn = Table(box=SIMPLE_HEAD, show_edge=False, title=Text(told, no_wrap=True, overflow="ellipsis"))
        drawn.title_justify, drawn.title_style = "left", "bold"
        for name, width in zip(heads, widths, strict=True):
            side: Any = "right" if name in ("epoch", "seconds") else "left"
            drawn.add_column(name, justify=side, width=width, no_wrap=True, overflow="ellipsis")
        for row, name in zip(rows, shortened([row[0] for row in rows], widths[0]), strict=True):
            drawn.add_row(name, Text(row[1], style=_STYLES.get(row[1], "")), *map(Text, row[2:]))
        rest = [Text(f"... and {len(jobs) - room} more")] if len(jobs) > room else []
        return Group(drawn, *rest)

    def cells(self, job: Job, *, named: bool) -> tuple[str, ...]:
        """A row of the table; `named`: with the metric's name, for the column has none."""
        rows = _history(job.folder / "metrics.csv") if job.status != "waiting" else []
        epoch = f"{int(rows[-1]['epoch']) + 1}/{self.epochs.get(job.id, '?')}" if rows else ""
        metric = job.error or "  ".join(" ".join(pair) if named else pair[1] for pair in self.metric(job))
        since = self.begun.get(job.id)
        taken = time.monotonic() - since if job.status == "running" and since else self.seconds.get(job.id)
        return job.name, job.status, epoch, metric, "" if taken is None else f"{taken:.0f}"

    def _widths(self, rows: Sequence[Sequence[str]]) -> list[int]:
        """Columns that fit into the terminal: names and metrics share what the others leave."""
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        left = max(self.console.width - 3 * len(widths) - widths[1] - widths[2] - widths[4], 16)
        widths[3] = min(widths[3], max(left - widths[0], left * 2 // 5))
        widths[0] = min(widths[0], left - widths[3])
        return widths


def shortened(names: Sequence[str], width: int) -> list[str]:
    """Names of jobs in so many places: without the groups of their keys, then without keys, then with a gap inside."""
    for pattern in ("", r"[^=,]*\.(?=[^=,.]*=)", r"[^=,]*="):
        found = [re.sub(f"(^|(?<=,)){pattern}", "", name) if pattern else name for name in names]
        if all(len(name) <= width for name in found):
            return found
    head = (width - 1) // 2
    return [f"{name[:head]}…{name[-(width - 1 - head) :]}" if len(name) > width else name for name in found]
