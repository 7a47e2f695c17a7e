"""A real Slurm with accounting, for as long as its standard input stays open.

It has two nodes, both on this machine: the first has two fake GPUs, the second one core, which jobs of the partition
`low` lose to those of `high`; `pair` is both nodes.

unshare --net --pid --fork --kill-child --mount-proc python slurm_node.py FOLDER

It is the first process of its own namespaces, so ports never clash, and whatever ends it ends all that it has started.
It prints `ready`, or why it is not. FOLDER must be open to all (0755), or munged refuses it.
"""

import getpass
import json
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

GPUS, CPUS, PATIENCE = 2, 4, 300.0
PORTS = {"controller": 16817, "node": 16818, "accounting": 16819, "database": 16820, "second": 16821}
PROGRAMS = ("munged", "mariadbd", "mariadb-install-db", "mariadb", "slurmdbd", "slurmctld", "slurmd", "sbatch", "ip")

SLURM = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
CommunicationParameters=NoInAddrAny,NoCtldInAddrAny
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
SlurmUser={user}
SlurmdUser={user}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=2,bf_interval=2
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost=127.0.0.1
AccountingStoragePort={accounting}
AccountingStoragePass={folder}/munge.sock
ReturnToService=2
KillWait=30
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} Gres=gpu:{gpus}
NodeName={host}-2 NodeHostname={host} NodeAddr=127.0.0.1 Port={second} CPUs=1
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
PartitionName=pair Nodes={host},{host}-2 MaxTime=INFINITE State=UP
PartitionName=low Nodes={host}-2 PriorityTier=1 MaxTime=INFINITE State=UP
PartitionName=high Nodes={host}-2 PriorityTier=10 MaxTime=INFINITE State=UP
"""
ACCOUNTING = """
AuthType=auth/munge
AuthInfo=socket={folder}/munge.sock
DbdHost={host}
DbdAddr=127.0.0.1
DbdPort={accounting}
SlurmUser={user}
PidFile={folder}/slurmdbd.pid
StorageType=accounting_storage/mysql
StorageHost=127.0.0.1
StoragePort={database}
StorageUser=slurm
StoragePass=slurm
StorageLoc=slurm
"""
DATABASE = "create database slurm; create user slurm@'127.0.0.1' identified by 'slurm'; "
DATABASE += "grant all on slurm.* to slurm@'127.0.0.1'"


class Node:
    """The programs of a Slurm, each a child of this process.

    Args:
        folder: where all that they write is.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[subprocess.Popen[bytes]] = []
        words = {"folder": folder, "host": socket.gethostname().partition(".")[0], "user": getpass.getuser()}
        self.words = {**words, **PORTS, "cpus": CPUS, "gpus": GPUS}
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")

    def write(self) -> None:
        """Write what the programs read."""
        for name in ("state", "devices", "spool", f"spool/{self.words['host']}", f"spool/{self.words['host']}-2"):
            (self.folder / name).mkdir()
        for i in range(GPUS):
            os.mknod(self.folder / "devices" / f"nvidia{i}", 0o20666, os.makedev(1, 3))  # it is /dev/null
        for name, text in (("slurm.conf", SLURM), ("slurmdbd.conf", ACCOUNTING)):
            (self.folder / name).write_text(text.format(**self.words))
            (self.folder / name).chmod(0o600)  # slurmdbd insists
        devices = f"{self.folder}/devices/nvidia[0-{GPUS - 1}]"
        (self.folder / "gres.conf").write_text(
            f"NodeName={self.words['host']} Name=gpu File={devices} Flags=nvidia_gpu_env\n"
        )
        (self.folder / "cgroup.conf").write_text("CgroupPlugin=cgroup/v1\n")  # none of its controllers is used
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)

    def start(self) -> None:
        """Start the programs one after the other, each when those that it needs are there."""
        place = self.folder
        run("ip", "link", "set", "lo", "up")
        run("ip", "address", "add", "10.99.0.1/32", "dev", "lo")  # or addresses that are configured count for nothing
        files = {"key-file": "key", "socket": "sock", "pid-file": "pid", "log-file": "log", "seed-file": "seed"}
        self.child("munged", "--foreground", *(f"--{option}={place}/munge.{end}" for option, end in files.items()))
        data, sock = place / "database", place / "database.sock"
        options = ["--no-defaults", f"--user={self.words['user']}", f"--datadir={data}"]
        run("mariadb-install-db", *options, "--skip-test-db", "--auth-root-authentication-method=normal")
        listen = [f"--socket={sock}", f"--port={PORTS['database']}", "--bind-address=127.0.0.1"]
        small = ["--innodb-buffer-pool-size=64M", "--innodb-lock-wait-timeout=900", f"--pid-file={place}/database.pid"]
        self.child("mariadbd", *options, *listen, *small)
        ask = ["mariadb", "--no-defaults", f"--socket={sock}", "-e"]
        self.wait("the database", lambda: works(*ask, "select 1"))
        run(*ask, DATABASE)
        self.child("slurmdbd", "-D")
        self.wait("the accounting", lambda: works("sacctmgr", "-i", "-n", "list", "cluster"))
        works("sacctmgr", "-i", "-Q", "add", "cluster", "test")
        self.child("slurmctld", "-D", "-i")
        for name in (self.words["host"], f"{self.words['host']}-2"):
            self.child("slurmd", "-D", "-N", str(name))
        self.wait("the nodes", lambda: set(output("sinfo", "-h", "-N", "-o", "%t").split()) == {"idle"})

    def child(self, *command: str) -> None:
        """Start a program that stays."""
        with (self.folder / f"{command[0]}.out").open("ab") as out:
            self.children.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out))

    def wait(self, what: str, there: Callable[[], bool]) -> None:
        """Wait until something is there.

        Raises:
            RuntimeError: a program has ended, or it takes too long.
        """
        until = time.monotonic() + PATIENCE
        while not there():
            dead = [child.args for child in self.children if child.poll() is not None]
            if dead or time.monotonic() > until:
                logs = {file.name: file.read_text(errors="replace")[-800:] for file in self.folder.glob("*.out")}
                raise RuntimeError(f"{what} does not come up{f', {dead} ended' if dead else ''}: {json.dumps(logs)}")
            time.sleep(0.1)

    def stop(self) -> None:
        """End all programs, those started last first."""
        for child in reversed(self.children):
            child.terminate()
            try:
                child.wait(10)
            except subprocess.TimeoutExpired:
                child.kill()


def output(*command: str) -> str:
    """What a program prints."""
    return subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE).stdout


def works(*command: str) -> bool:
    """Whether a program ends well."""
    told = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
    return told.returncode == 0


def run(*command: str) -> None:
    """Run a program that must end well."""
    told = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=PATIENCE)
    if told.returncode:
        raise RuntimeError(f"{command[0]}: {told.stdout}{told.stderr}")


def main() -> None:
    """Start it, say so, and stop it when the standard input is closed."""
    node = Node(Path(sys.argv[1]))
    try:
        node.write()
        node.start()
        print("ready", flush=True)
        select.select([sys.stdin], [], [])
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        print(f"{type(error).__name__}: {error}", flush=True)
    finally:
        node.stop()


if __name__ == "__main__":
    main()
