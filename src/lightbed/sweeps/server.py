"""The process that jobs are forked from: it has imported everything, so that a job starts at once.

Forking is safe while this process has no threads of Python's, has computed nothing in parallel and has touched no GPU:
it only imports, forks and waits. Where what it was told to import breaks that, jobs start in new Pythons instead. Jobs
come from the code as it was read here, and read the rest from the sweep's copies (see `code`): editing it changes
nothing for those that are still to come.

It speaks with the launcher in lines of JSON over a socket; what a job holds open comes with the line that starts it.
When the launcher is gone, it ends its jobs, and then itself.
"""

import atexit
import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn

from lightbed.sweeps import imports, order

_MODULE = "lightbed.sweeps.order"
_GRACE = 60.0  # seconds that jobs have to end when the launcher is gone
# what ours imports when it needs it
_LATER = ("torchmetrics.detection", "sklearn.datasets", "torch.utils.tensorboard", "matplotlib.backends.backend_agg")
_APART = ("lightbed.__main__", "lightbed.web")


class Job(Exception):  # noqa: N818 - no error: it leaves the server's loop, in the child
    """This process is a job now."""


class Server:
    """The loop.

    Args:
        line: the socket to the launcher.
        fresh: start each job in a new Python.
        code: folder of the sweep's frozen code, if there is one.
    """

    def __init__(self, line: socket.socket, *, fresh: bool, code: str = "") -> None:
        self.line, self.fresh, self.code = line, fresh, code
        self.pids: dict[int, int] = {}  # process of each job's number
        self.text = b""
        self.descriptors: list[int] = []
        self.woken, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        self.threads = _threads()

    def serve(self) -> None:
        """Do what the launcher says until it is gone."""
        watched: list[Any] = [self.line, self.woken]
        while True:
            ready, _, _ = select.select(watched, [], [])
            if self.woken in ready:
                os.read(self.woken, 4096)
                self._reap()
            if self.line in ready:
                told = self._read()
                if told is None:
                    return self._end()
                for message in told:
                    getattr(self, f"_{message.pop('do')}")(**message)

    def _read(self) -> list[dict[str, Any]] | None:
        """What the launcher says; None when it is gone."""
        try:
            data, descriptors, _, _ = socket.recv_fds(self.line, 1 << 16, 64)
        except ConnectionError:
            return None
        if not data:
            return None
        self.descriptors += descriptors
        *lines, self.text = (self.text + data).split(b"\n")
        return [json.loads(line) for line in lines]

    def _say(self, **message: Any) -> None:
        with contextlib.suppress(OSError):  # the launcher is gone, which the next look tells
            self.line.sendall(json.dumps(message).encode() + b"\n")

    def _check(self, files: list[str], trust: bool) -> None:
        """Import what the frozen jobs name, and look whether it takes what they say."""
        from lightbed.sweeps.check import check

        imports.use(self.code)
        try:
            told = check([Path(file) for file in files], trust=trust)
        except Exception:  # a fault of ours, or of what was imported, which the job will tell in its own log
            traceback.print_exc()
            told = {}
        if not self.fresh and (threading.active_count() > 1 or _threads() > self.threads or _touched_gpu()):
            self.fresh = True
        gc.freeze()  # so that collecting garbage in a job does not copy all that it shares with the others
        self._say(did="check", faults=told, fresh=self.fresh)

    def _start(self, number: int, variables: dict[str, str], log: str, held: int) -> None:
        """Start a job; it inherits the descriptors that came along."""
        held_now, self.descriptors = self.descriptors[:held], self.descriptors[held:]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 counts threads of BLAS, which stops them
            pid = os.fork()
        if not pid:
            self._become(variables, log, held_now)
        for descriptor in held_now:
            os.close(descriptor)
        self.pids[number] = pid
        self._say(did="start", number=number, pid=pid)

    def _become(self, variables: dict[str, str], log: str, held: list[int]) -> None:
        os.setsid()
        order.die_with_parent(signal.SIGTERM)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGTERM):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.line.close()
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        for place in (1, 2):
            os.dup2(out, place)
        os.close(out)
        os.environ.update(variables)
        if self.fresh:
            for descriptor in held:
                os.set_inheritable(descriptor, True)
            os.execv(sys.executable, [sys.executable, "-P", "-m", _MODULE])
        raise Job

    def _signal(self, number: int, signal_number: int) -> None:
        pid = self.pids.get(number)
        if pid is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal_number)

    def _reap(self) -> None:
        for number, pid in list(self.pids.items()):
            if os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
                self._signal(number, signal.SIGKILL)  # what a killed job left behind
                _, status = os.waitpid(pid, 0)
                del self.pids[number]
                self._say(did="end", number=number, code=os.waitstatus_to_exitcode(status))

    def _end(self) -> None:
        for signal_number, seconds in ((signal.SIGTERM, _GRACE), (signal.SIGKILL, _GRACE)):
            for number in self.pids:
                self._signal(number, signal_number)
            until = time.monotonic() + seconds
            while self.pids and (left := until - time.monotonic()) > 0:
                select.select([self.woken], [], [], left)
                self._reap()


def _threads() -> int:
    """Threads of this process, those that Python does not know included."""
    tasks = Path("/proc/self/task")
    return len(list(tasks.iterdir())) if tasks.is_dir() else threading.active_count()


def _touched_gpu() -> bool:
    import torch

    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


def warm() -> None:
    """Import all that a training may need."""
    import lightbed

    # or asking whether there is a GPU would take hold of the driver, which no child could use then
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in _modules(lightbed):
        with contextlib.suppress(ImportError):  # an extra that is not installed
            importlib.import_module(name)
    for name in _LATER:
        importlib.import_module(name)


def _modules(package: Any) -> Iterator[str]:
    for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}.", onerror=lambda _: None):
        if not module.name.startswith(_APART):
            yield module.name


def main() -> int:
    """Serve the socket whose number is the first argument; the second is the folder of frozen code."""
    os.setsid()  # Ctrl-C is for the launcher, which says how the jobs are to end
    order.die_with_parent(signal.SIGTERM)
    line, fresh = socket.socket(fileno=int(sys.argv[1])), "fresh" in sys.argv
    warm()
    server = Server(line, fresh=fresh, code=sys.argv[2])
    order.die_with_parent(0)  # from here on the socket tells
    server._say(did="warm")
    try:
        server.serve()
    except Job:
        pass
    else:
        os._exit(0)  # there is nothing to put in order, and taking all the libraries down takes a second
    # what Lightning starts again for further devices, and Python for reading processes
    main_module: Any = sys.modules["__main__"]
    spec: ModuleSpec | None = find_spec(_MODULE)
    main_module.__spec__ = spec
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    try:
        return _leave(order.main())
    except SystemExit as ended:  # a signal's, too
        return _leave(ended.code)


def _leave(code: Any) -> NoReturn:
    """End a job as Python does, but for taking all the libraries down, which takes two seconds."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    sys.exit(main())
