"""Jobs in processes of their own, as many at a time as there is room for; what ends is told, retried, written down."""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from lightbed.errors import RunError
from lightbed.sweeps.code import Code
from lightbed.sweeps.devices import Lease, Need, Slots
from lightbed.sweeps.jobs import OVER, Job, Sweep, found_status, now, read_json, set_aside
from lightbed.sweeps.order import Order

_STOPPING = "lightbed: the jobs write a checkpoint and end; Ctrl-C again ends them at once"
_TICK = 0.5  # seconds between looks at the curves, and for room that another terminal gives back


class Pool:
    """Runs the jobs that are added to it; close it by leaving its `with`, which ends what still runs.

    Args:
        sweep: the jobs' own; written at each change.
        slots: of this machine.
        fresh: see `hydra.launcher.start`.
        retries: how often a job that failed or was killed is tried again; one whose configuration or data is wrong
            never.
        trust: whether the jobs may name any class.
        code: what the jobs run, frozen; None: what is there when each starts.
        held: descriptors that each job keeps open.
        changed: called with each job whose status changed, and with None from time to time.
    """

    def __init__(
        self,
        sweep: Sweep,
        slots: Slots,
        *,
        fresh: bool = False,
        retries: int = 0,
        trust: bool = True,
        code: Code | None = None,
        held: tuple[int, ...] = (),
        changed: Callable[[Job | None], None] = lambda _: None,
    ) -> None:
        self.sweep, self.slots, self.retries, self.trust = sweep, slots, retries, trust
        self.code, self.held, self.changed = code, held, changed
        self.waiting: deque[tuple[Job, Need]] = deque()
        self.running: dict[int, tuple[Job, Lease, float]] = {}
        self.stopping = False
        self.ill: Counter[str] = Counter()  # how often each job failed or was killed
        self.answers: deque[dict[str, Any]] = deque()
        self.text = b""
        self.begun = 0
        self.line, theirs = socket.socketpair()
        with theirs:
            command = [sys.executable, "-P", "-m", "lightbed.sweeps.server", str(theirs.fileno())]
            command += [str(code.folder) if code else "", *(["fresh"] if fresh else [])]
            self.server = subprocess.Popen(
                command,
                env={**os.environ, **(code.variables if code else {})},
                pass_fds=[theirs.fileno(), *held],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )

    def __enter__(self) -> "Pool":
        return self

    def __exit__(self, *_: Any) -> None:
        """End what still runs, at once."""
        self.stopping = True
        with contextlib.suppress(RunError):
            while self.running:
                self.signal(signal.SIGKILL)
                self.step()
        self.line.close()
        self.server.terminate()  # it has no jobs any more
        self.server.wait()
        if self.sweep.jobs:
            self.sweep.write()

    # -- for those who run jobs ----------------------------------------------------------------------------------------

    def check(self, jobs: Iterable[Job]) -> dict[str, str]:
        """What is wrong with frozen jobs, by id, as far as their data need not be read for it."""
        jobs = list(jobs)
        if self.code is not None:
            for job in jobs:
                self.code.add(read_json(job.frozen)["config"])
        self._say(do="check", files=[str(job.frozen) for job in jobs], trust=self.trust)
        while True:
            for message in list(self.answers):
                if message["did"] == "check":
                    self.answers.remove(message)
                    faults: dict[str, str] = message["faults"]
                    return faults
            self._listen(_TICK)

    def add(self, job: Job, need: Need) -> None:
        """Have a job run as soon as there is room."""
        job.status = "waiting"
        self.waiting.append((job, need))

    @property
    def busy(self) -> bool:
        """Whether there is anything to wait for."""
        return bool(self.running or (self.waiting and not self.stopping))

    def step(self) -> list[Job]:
        """Start what there is room for, wait a little, and give the jobs that ended meanwhile and are not tried again.

        Raises:
            RunError: the process that jobs come from was killed.
        """
        self._start()
        self._listen(_TICK)
        ended = []
        while self.answers:
            message = self.answers.popleft()
            if message["did"] == "end" and (job := self._end(message["number"], message["code"])):
                ended.append(job)
        self.changed(None)
        return ended

    def stop(self, job: Job, number: int = signal.SIGTERM) -> None:
        """Send a signal to a job's processes: SIGTERM and SIGINT let it write a checkpoint, and it is interrupted."""
        for key, (running, _, _) in self.running.items():
            if running is job:
                self._say(do="signal", number=key, signal_number=int(number))

    def signal(self, number: int) -> None:
        """Send a signal to all jobs that run; no more are started."""
        self.stopping = True
        for job, _, _ in self.running.values():
            self.stop(job, number)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _start(self) -> None:
        for _ in range(0 if self.stopping else len(self.waiting)):
            job, need = self.waiting[0]
            lease = self.slots.lease(need)
            if lease is None:  # those behind wait as well: a large job would never have its turn
                return
            self.waiting.popleft()
            self._begin(job, lease)

    def _prepare(self, job: Job) -> Order:
        before = found_status(job.folder)
        if before in ("failed", "pruned"):
            set_aside(job.folder)
        job.folder.mkdir(parents=True, exist_ok=True)
        order = Order(str(job.frozen), self.sweep.words, before in ("interrupted", "killed"), self.trust)
        if self.code is None:
            return order
        return order._replace(code=str(self.code.folder), path=self.code.variables.get("PYTHONPATH", ""))

    def _begin(self, job: Job, lease: Lease) -> None:
        order = self._prepare(job)
        held = [*self.held, *lease.locks]
        self.begun += 1
        self.running[self.begun] = (job, lease, time.monotonic())
        told = {"start": now(), **({"gpus": lease.gpus} if lease.gpus else {})}
        job.status, job.error = "running", ""
        job.attempts.append(told)
        message = {"number": self.begun, "variables": order.variables | lease.variables, "held": len(held)}
        self._say(held, do="start", log=str(job.folder / "console.log"), **message)
        self._tell(job)

    def _end(self, key: int, code: int, why: str = "") -> Job | None:
        job, lease, since = self.running.pop(key)
        self.slots.free(lease)
        job.code, job.status = code, ended_status(job.folder, code)
        job.error = "" if job.status in OVER else why or last_words(job.folder, code)
        seconds = round(time.monotonic() - since, 1)
        job.attempts[-1] |= {"seconds": seconds, "status": job.status, "code": code}
        if job.status == "killed":
            with contextlib.suppress(OSError), (job.folder / "log.txt").open("a", encoding="utf-8") as log:
                log.write(f"{job.error}\n")
        self._tell(job)
        ill = job.status in ("failed", "killed")
        self.ill[job.id] += ill
        if ill and code != 2 and self.ill[job.id] <= self.retries and not self.stopping:
            self.add(job, Need(len(lease.gpus), lease.cores))
            return None
        return job

    def _tell(self, job: Job) -> None:
        self.sweep.write()
        self.changed(job)

    def _say(self, descriptors: list[int] | None = None, **message: Any) -> None:
        data = json.dumps(message).encode() + b"\n"
        try:
            if descriptors:
                sent = socket.send_fds(self.line, [data], descriptors)
                data = data[sent:]
            self.line.sendall(data)
        except OSError as error:
            raise self._lost() from error

    def _listen(self, seconds: float) -> None:
        ready, _, _ = select.select([self.line], [], [], seconds)
        if ready:
            try:
                data = self.line.recv(1 << 16)
            except ConnectionError:
                data = b""
            if not data:
                raise self._lost()
            *lines, self.text = (self.text + data).split(b"\n")
            self.answers += [json.loads(line) for line in lines]

    def _lost(self) -> RunError:
        for job, lease, _ in self.running.values():
            self.slots.free(lease)
            job.status, job.error = "killed", "the process that it came from is gone"
        self.running = {}
        return RunError(f"the process that jobs come from ended ({self.server.wait()}); the sweep can be resumed")


def ended_status(folder: Path, code: int) -> str:
    """What became of a job that ended with this exit code, negative for a signal."""
    told = read_json(folder / "run.json").get("status")
    if code < 0:
        return "interrupted" if told == "interrupted" else "killed"
    if code == 0:
        return str(told) if told in (*OVER, "interrupted") else "done"
    return "interrupted" if code in (130, 143) else "failed"


def last_words(folder: Path, code: int) -> str:
    """Why a job ended, in one line."""
    if code < 0:
        name = signal.Signals(-code).name
        return f"killed by {name}{', perhaps because memory ran out' * (name == 'SIGKILL')}"
    if code in (130, 143):
        return "stopped"
    if error := read_json(folder / "run.json").get("error"):
        return " ".join(str(error).split())
    console = folder / "console.log"
    text = console.read_text(encoding="utf-8", errors="replace") if console.is_file() else ""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), f"exit code {code}")


@contextlib.contextmanager
def stops(pool: Pool) -> Iterator[Callable[[], int | None]]:
    """The first Ctrl-C or SIGTERM lets the jobs end where they can go on; a second one ends them at once.

    Gives a function that says which signal came.
    """
    from lightbed.runs.signals import Request

    request = Request()
    request.listen()

    def look() -> int | None:
        if request.number is not None and not pool.stopping:
            pool.signal(request.number)
            if pool.running:
                print(_STOPPING, file=sys.stderr, flush=True)
        return request.number

    try:
        yield look
    finally:
        request.close()
