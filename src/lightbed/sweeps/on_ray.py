"""`hydra/launcher=ray`: jobs on a Ray cluster, each a process of its own below an actor that holds its GPUs."""

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lightbed.errors import UserError, first_sentence
from lightbed.sweeps import order as orders
from lightbed.sweeps.cluster import ClusterPool, Engine, Settings, State
from lightbed.sweeps.devices import Need
from lightbed.sweeps.jobs import Job
from lightbed.sweeps.order import Order


@dataclass
class Ray(Settings):
    """The keys of `hydra/launcher=ray`.

    Attributes:
        cpus_per_job: cores; None: `threads` and `data.num_workers` together, of each process.
        init: arguments of `ray.init`.
    """

    cpus_per_job: float | None = None
    init: dict[str, Any] = field(default_factory=dict)

    def check(self) -> None:
        """Refuse wrong values.

        Raises:
            UserError: a value is none, or Ray is missing.
        """
        self._number("jobs", 1)
        for name in ("gpus_per_job", "cpus_per_job"):
            if getattr(self, name) is not None:
                self._amount(name)
        if importlib.util.find_spec("ray") is None:
            raise UserError("hydra/launcher=ray needs Ray: pip install 'lightbed[ray]'")

    def _amount(self, name: str) -> None:
        value = getattr(self, name)
        if not isinstance(value, int | float) or isinstance(value, bool) or value < 0:
            raise UserError(f"hydra.launcher.{name}={value} must be a number of at least 0, e.g. 0.5")
        if value > 1 and value != int(value):
            raise UserError(f"hydra.launcher.{name}={value}: Ray shares out whole ones, or a part")

    def engine(self, pool: ClusterPool) -> Engine:  # noqa: ARG002 - nothing of it is needed
        """Ray, connected to its cluster."""
        return Actors(self)


class Actors:
    """An actor for each job.

    Args:
        settings: of the jobs.
    """

    name = "ray"

    def __init__(self, settings: Ray) -> None:
        import ray

        self.settings = settings
        self.ray: Any = ray
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        try:
            ray.init(**{"log_to_driver": False, "logging_level": "error", **settings.init})
        except (ConnectionError, ValueError, TypeError, RuntimeError) as error:
            given = ", ".join(f"{name}={value}" for name, value in settings.init.items())
            raise UserError(f"hydra.launcher.init ({given}): Ray says: {first_sentence(error)}") from error
        self.actors: dict[str, Any] = {}
        self.told = False  # that no node is large enough
        self.asked: dict[str, Any] = {}  # the answer that is still to come from each

    def submit(self, job: Job, order: Order, need: Need) -> str:
        """Queue a job; gives its name.

        Raises:
            UserError: it takes several nodes, or more than this machine has.
        """
        if need.nodes > 1:
            raise UserError(f"trainer.num_nodes={need.nodes}: hydra/launcher=ray has jobs of one node only")
        cores = need.cores * need.tasks if self.settings.cpus_per_job is None else self.settings.cpus_per_job
        self._check_room(cores, need.gpus)
        kind: Any = self.ray.remote(num_cpus=cores, num_gpus=need.gpus, max_restarts=0)(Worker)
        own = ("PYTHONPATH", "LIGHTBED_CACHE", "OMP_NUM_THREADS")
        variables = {**{name: os.environ[name] for name in own if name in os.environ}, **order.variables}
        actor = kind.remote(variables, str(job.folder / "console.log"), str(Path.cwd()))
        name: str = actor._actor_id.hex()
        self.actors[name], self.asked[name] = actor, actor.look.remote()
        return name

    def look(self, names: list[str]) -> dict[str, State]:
        """How jobs stand; those whose actor has not answered are missing."""
        found: dict[str, State] = {}
        for name in names:
            if name not in self.asked or not self.ray.wait([self.asked[name]], timeout=0)[0]:
                continue
            try:
                code = self.ray.get(self.asked[name])
                found[name] = State(True, code)
            except self.ray.exceptions.RayError as error:  # it was killed, or its node is gone
                code = -int(signal.SIGKILL)
                found[name] = State(True, code, f"Ray: {type(error).__name__}")
            if code is None:
                self.asked[name] = self.actors[name].look.remote()
            else:
                self._forget(name)
        return found

    def signal(self, name: str, number: int) -> None:
        """Send a signal to a job's processes; SIGKILL also takes it out of the queue."""
        if name not in self.actors:
            return
        if number == signal.SIGKILL:
            self.ray.kill(self.actors[name])  # its process dies with it
        else:
            self.actors[name].signal.remote(int(number))

    def close(self) -> None:
        """Leave the cluster, or end it where it was started here."""
        self.ray.shutdown()

    def _check_room(self, cores: float, gpus: float) -> None:
        """Say so where no node is large enough for a job, which would wait for ever.

        Raises:
            UserError: and none can come, for the cluster was started here.
        """
        nodes = [node["Resources"] for node in self.ray.nodes() if node["Alive"]]
        if any(node.get("CPU", 0) >= cores and node.get("GPU", 0) >= gpus for node in nodes):
            return
        there = "; ".join(sorted({f"{node.get('CPU', 0):g} cores and {node.get('GPU', 0):g} GPUs" for node in nodes}))
        told = f"a job takes {cores:g} cores and {gpus:g} GPUs of one node, but those of Ray's cluster have {there}"
        if not self.settings.init.get("address"):
            keys = "hydra.launcher.gpus_per_job and cpus_per_job, or trainer.accelerator=cpu for jobs without GPUs"
            raise UserError(f"{told}: set {keys}")
        if not self.told:  # a cluster may grow
            print(f"{told}: jobs wait until there is one with as much", file=sys.stderr, flush=True)
        self.told = True

    def _forget(self, name: str) -> None:
        del self.asked[name]
        self.ray.kill(self.actors.pop(name))  # which frees its GPUs


class Worker:
    """Holds a job's share of GPUs and runs it in a process of its own.

    Args:
        variables: of the process, beside those of Ray's.
        log: file of what it prints.
        folder: where it runs.
    """

    def __init__(self, variables: dict[str, str], log: str, folder: str) -> None:
        command = [sys.executable, "-P", "-m", "lightbed.sweeps.order"]
        with Path(log).open("ab") as out:
            self.process = subprocess.Popen(
                command,
                env={**os.environ, **variables},
                cwd=folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    def look(self) -> int | None:
        """Wait a moment; the exit code, negative for a signal, or None where the job still runs."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(1.0)
        return None

    def signal(self, number: int) -> None:
        """Send a signal to all processes of the job."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, number)


def _die_with_parent() -> None:
    orders.die_with_parent(signal.SIGKILL)
