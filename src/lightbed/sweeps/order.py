"""One job of a sweep in a process of its own: `python -m lightbed.sweeps.order`, told by a variable what to run.

Processes that Lightning starts for further devices inherit the variable, so they run the same job and not the sweep.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from lightbed.sweeps import imports

VARIABLE = "LIGHTBED_JOB"
_DEATH = 1  # PR_SET_PDEATHSIG of Linux


class Order(NamedTuple):
    """What a process is to do."""

    frozen: str  # the job's file
    words: list[str]  # the sweep's command line, for the run's record
    goes_on: bool = False  # from its last checkpoint
    trust: bool = True  # what the file names was composed just now, or is trusted
    code: str = ""  # folder of the sweep's frozen code
    path: str = ""  # PYTHONPATH for that

    @property
    def variables(self) -> dict[str, str]:
        """What tells a process of it."""
        return {VARIABLE: json.dumps(self._asdict()), **({"PYTHONPATH": self.path} if self.path else {})}


def main() -> int:
    """Run the job that the variable orders; returns the exit code of a `lightbed train` of its own."""
    order = Order(**json.loads(os.environ[VARIABLE]))
    if os.environ.get("LOCAL_RANK", "0") != "0":
        die_with_parent(signal.SIGTERM)
    imports.use(order.code)
    content = json.loads(Path(order.frozen).read_text(encoding="utf-8"))
    sys.argv = ["lightbed", *order.words]
    log, run = Path(content["folder"], "log.txt"), Path(content["folder"], "run.json")
    try:
        _train(content, order)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        from lightbed import faults
        from lightbed.errors import Pruned, RunError

        if isinstance(error, Pruned):
            return 0
        mistake = faults.users_mistake(error)
        if not run.exists():  # a run's own record has written it there
            with suppress(OSError), log.open("a", encoding="utf-8") as file:
                file.write("".join(traceback.format_exception(error)))
        kind = "" if mistake or isinstance(error, RunError) else f"{type(error).__name__}: "
        print(f"{kind}{faults.one_line(mistake or error)}", file=sys.stderr)
        return 1 if mistake is None else 2
    return 0


def _train(content: dict[str, Any], order: Order) -> None:
    from hydra._internal.callbacks import Callbacks
    from hydra.core.utils import JobStatus, run_job, setup_globals
    from hydra.types import HydraContext

    from lightbed.commands.train import train
    from lightbed.sweeps.frozen import thaw

    setup_globals()
    if not order.trust:
        from lightbed.runs.trust import check_config

        check_config(content["config"], order.frozen)
    if order.goes_on:
        content = {**content, "config": {**content["config"], "resume": content["folder"], "trust": order.trust}}
        content["hydra"] = {**content["hydra"], "overrides": {"hydra": [], "task": []}}
    config = thaw(content, single=order.goes_on)
    nothing: Any = None  # a job composes no more
    context = HydraContext(config_loader=nothing, callbacks=Callbacks(config))
    done = run_job(train, config, "hydra.sweep.dir", "hydra.sweep.subdir", context)
    if done.status is JobStatus.FAILED:
        raise done._return_value


def die_with_parent(number: int) -> None:
    """Have the system send this signal when the parent is gone, whatever ended it; only Linux can."""
    if sys.platform == "linux":
        parent = os.getppid()
        ctypes.CDLL(None).prctl(_DEATH, number)
        if os.getppid() != parent:  # it went before
            os.kill(os.getpid(), number)


if __name__ == "__main__":
    sys.exit(main())
elif __name__ == "__mp_main__":  # a reading process that a job starts as a new Python
    imports.use(Order(**json.loads(os.environ[VARIABLE])).code)
