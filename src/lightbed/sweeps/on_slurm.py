"""`hydra/launcher=slurm`: jobs of Slurm, written and queued by submitit, watched by squeue and sacct."""

import getpass
import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightbed.errors import UserError
from lightbed.sweeps import order as orders
from lightbed.sweeps.cluster import ClusterPool, Engine, Settings, State
from lightbed.sweeps.devices import Need
from lightbed.sweeps.jobs import Job
from lightbed.sweeps.order import VARIABLE, Order

_GRACE = 90  # seconds before its time limit that a job is told of it
_LOOK = 3.0  # seconds between two looks into the queue
_ENDED = (
    "BOOT_FAIL", "CANCELLED", "COMPLETED", "DEADLINE", "FAILED", "NODE_FAIL", "OUT_OF_MEMORY", "PREEMPTED", "TIMEOUT",
)  # fmt: skip
_AGAIN = "LIGHTBED_AGAIN"  # set where Slurm starts a job whose run has begun already


@dataclass
class Slurm(Settings):
    """The keys of `hydra/launcher=slurm`.

    Attributes:
        minutes: time limit of a job; one that reaches it goes on from its checkpoint.
        cpus_per_task: cores of each process; None: `threads` and `data.num_workers` together.
        options: further ones of sbatch, by their names.
    """

    minutes: int = 240
    cpus_per_task: int | None = None
    options: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse wrong values.

        Raises:
            UserError: a value is none, or a package or program is missing.
        """
        super().check()
        self._number("minutes", 1)
        if self.cpus_per_task is not None:
            self._number("cpus_per_task", 1)
        if importlib.util.find_spec("submitit") is None:
            raise UserError("hydra/launcher=slurm needs submitit: pip install 'lightbed[sweep]'")
        if shutil.which("sbatch") is None:
            raise UserError("hydra/launcher=slurm needs Slurm's sbatch, which is not here: start it on a login node")

    def engine(self, pool: ClusterPool) -> Engine:
        """Slurm, for the jobs of this pool."""
        return Queue(self, pool.sweep.folder / ".slurm")


class Queue:
    """Slurm's queue.

    Args:
        settings: of the jobs.
        folder: for scripts and for what is printed before a job has begun; all nodes must see it.
    """

    name = "slurm"

    def __init__(self, settings: Slurm, folder: Path) -> None:
        self.settings, self.folder = settings, folder
        self.looked = 0.0

    def submit(self, job: Job, order: Order, need: Need) -> str:
        """Queue a job; gives its number.

        Raises:
            UserError: Slurm refuses it.
        """
        import submitit
        from submitit.core.utils import FailedJobError

        executor = submitit.SlurmExecutor(self.folder)
        given: dict[str, Any] = {
            "job_name": f"lightbed-{job.name}"[:60],
            "time": self.settings.minutes,
            "nodes": need.nodes,
            "ntasks_per_node": need.tasks,
            "cpus_per_task": self.settings.cpus_per_task or need.cores,
            "signal_delay_s": _GRACE,
            "srun_args": ["--kill-on-bad-exit=1"],  # or the others wait for a process that is gone
            # decided before any process of the job is there, so that all see the same
            "setup": [
                *_exports(order),
                f"export {_AGAIN}=$(test -f {shlex.quote(str(job.folder / 'run.json'))} && echo 1)",
            ],
            "additional_parameters": {"requeue": True, **self.settings.options},
        }
        if need.gpus:
            given["gpus_per_node"] = int(need.gpus)
        executor.update_parameters(**given)
        try:
            return str(executor.submit(work, order.variables, str(job.folder / "console.log")).job_id)
        except FailedJobError as error:
            raise UserError(f"Slurm refuses {job.name}: {_last_line(error)}") from error

    def look(self, names: list[str]) -> dict[str, State]:
        """How jobs stand; nothing is known between two looks into the queue, or where Slurm does not answer."""
        if not names or time.monotonic() - self.looked < _LOOK:
            return {}
        self.looked = time.monotonic()
        form = "JobID:.20,State:.20"
        told = _ask("squeue", "--noheader", f"--user={getpass.getuser()}", "--states=all", f"--Format={form}")
        if told is None:
            return {}
        listed = {line.split()[0]: line.split()[1] for line in told.splitlines() if len(line.split()) == 2}
        found = {name: State(state != "PENDING") for name, state in listed.items() if state not in _ENDED}
        for name in names:
            if name not in found and (ended := _ended(name)) is not None:
                found[name] = ended
        return {name: found[name] for name in names if name in found}

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a job's processes; SIGKILL also takes it out of the queue."""
        kind = [] if number == signal.SIGKILL else [f"--signal={signal.Signals(number).name[3:]}"]
        _ask("scancel", "--quiet", *kind, name)

    def close(self) -> None:
        """Nothing is held."""


def _exports(order: Order) -> list[str]:
    """What has the job import the sweep's frozen code from its first line on, whatever variables sbatch keeps."""
    return [f"export PYTHONPATH={shlex.quote(order.path)}"] if order.path else []


def _ask(*command: str) -> str | None:
    """What a command of Slurm prints; None where it fails."""
    told = subprocess.run(command, capture_output=True, text=True)
    return told.stdout if told.returncode == 0 else None


def _ended(name: str) -> State | None:
    """How a job ended: by the controller's memory, which lasts minutes, or by the accounting; None: not known yet."""
    words = (_ask("scontrol", "show", "job", "--oneliner", name) or "").split()
    told = dict(word.partition("=")[::2] for word in words)
    state, code = told.get("JobState"), told.get("ExitCode")
    if state is None:
        lines = (_ask("sacct", "-X", "-n", "-P", "-j", name, "-o", "State,ExitCode") or "").splitlines()
        state, _, code = lines[-1].partition("|") if lines else ("UNKNOWN", "", "0:9")
    kind = state.split()[0]
    if kind not in (*_ENDED, "UNKNOWN"):
        return None
    own, _, number = (code or "0:0").partition(":")
    if kind == "COMPLETED":
        return State(True, 0)
    if kind == "FAILED":
        value = int(own) or 128 + int(number or 0)
        return State(True, value if value <= 128 or value in (130, 143) else 128 - value)
    return State(True, -int(signal.SIGTERM if kind in ("CANCELLED", "PREEMPTED") else signal.SIGKILL), f"Slurm: {kind}")


def work(variables: dict[str, str], log: str) -> None:
    """Be a job: what submitit calls in each of its processes."""
    first = os.environ.get("SLURM_PROCID", "0") == "0"
    if first:
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for place in (1, 2):
            os.dup2(out, place)
        os.close(out)
    told = Order(**json.loads(variables[VARIABLE]))
    os.environ.update(told._replace(goes_on=bool(os.environ.get(_AGAIN))).variables)
    for number in (signal.SIGTERM, signal.SIGCONT):
        signal.signal(number, signal.SIG_DFL)  # submitit's own do nothing
    limit: list[int] = []

    def ends_soon(number: int, _: Any) -> None:
        limit.append(number)
        os.kill(os.getpid(), signal.SIGTERM)  # a checkpoint is written, and the run ends

    for number in (signal.SIGUSR1, signal.SIGUSR2):  # Lightning's and submitit's
        signal.signal(number, ends_soon)
    code: Any = 1
    try:
        code = orders.main()
    except SystemExit as ended:
        code = ended.code
    if limit and first:
        print("the time limit is near: the job is queued again and goes on from its checkpoint", flush=True)
        _ask("scontrol", "requeue", os.environ["SLURM_JOB_ID"])
    sys.exit(code)


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__
