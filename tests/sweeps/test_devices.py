"""GPUs and cores are dealt out: never twice, also between two sweeps, and freed by whatever ends a job."""

import os
import signal
from pathlib import Path

import pytest

from lightbed.errors import UserError
from lightbed.sweeps.devices import Lease, Need, Slots, inventory
from lightbed.sweeps.jobs import Sweep
from lightbed.sweeps.launcher import Settings
from lightbed.sweeps.runner import Runner

GPU, CPU = {"accelerator": "auto", "devices": "auto"}, {"accelerator": "cpu", "devices": 2}


def slots(folder: Path, gpus: str = "", cores: int = 8, jobs: int | None = None, jobs_per_gpu: int = 1) -> Slots:
    return Slots(list(gpus), cores, jobs, jobs_per_gpu, folder)


def leases(of: Slots, need: Need) -> list[Lease]:
    """All that there is room for."""
    found = []
    while (lease := of.lease(need)) is not None:
        found.append(lease)
    return found


def test_a_gpu_is_leased_once_also_between_two_sweeps(tmp_path: Path) -> None:
    one, two = slots(tmp_path, "abcd"), slots(tmp_path, "abcd")
    first, second = one.lease(Need(2, 0)), two.lease(Need(1, 0))
    assert first.variables == {"CUDA_VISIBLE_DEVICES": "a,b"}
    assert second.gpus == ["c"]
    assert two.lease(Need(2, 0)) is None  # all or none: the one that is left is not kept
    assert one.lease(Need(1, 0)).gpus == ["d"]
    assert not leases(two, Need(1, 0))
    one.free(first)
    assert two.lease(Need(2, 0)).gpus == ["a", "b"]


def test_gpus_are_shared_by_so_many_jobs_and_never_with_one_that_has_it_for_itself(tmp_path: Path) -> None:
    shared, alone = slots(tmp_path, "ab", jobs_per_gpu=2), slots(tmp_path, "ab")
    own = alone.lease(Need(1, 0))
    assert [lease.gpus for lease in leases(shared, Need(1, 0))] == [["b"], ["b"]]
    alone.free(own)
    assert [lease.gpus for lease in leases(shared, Need(1, 0))] == [["a"], ["a"]]
    assert alone.lease(Need(1, 0)) is None
    for lease in [lease for lease in shared.held if lease.gpus == ["b"]]:
        shared.free(lease)
    assert alone.lease(Need(1, 0)).gpus == ["b"]


def test_jobs_that_share_are_spread(tmp_path: Path) -> None:
    found = leases(slots(tmp_path, "ab", jobs_per_gpu=2), Need(1, 0))
    assert [lease.gpus for lease in found] == [["a"], ["b"], ["a"], ["b"]]


def test_the_lease_of_a_killed_process_is_free(tmp_path: Path) -> None:
    one, two = slots(tmp_path, "a"), slots(tmp_path, "a")
    lease = one.lease(Need(1, 0))
    pid = os.fork()
    if not pid:
        signal.pause()
    one.free(lease)  # the child inherited it, as a job does
    try:
        assert two.lease(Need(1, 0)) is None
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    assert two.lease(Need(1, 0)).gpus == ["a"]


def test_cores_are_divided_by_the_threads_of_each_job(tmp_path: Path) -> None:
    of = slots(tmp_path, cores=8)
    assert of.need({"threads": 3, "trainer": GPU}, None) == Need(0, 3)
    assert len(leases(of, Need(0, 3))) == 2
    assert of.lease(Need(0, 2)) is not None  # what is left
    assert of.need({"threads": 2, "trainer": CPU}, None) == Need(0, 4)  # two processes
    assert of.need({"threads": 64, "trainer": CPU}, None) == Need(0, 8)  # more than there are: alone
    assert of.at_once(Need(0, 3)) == 2
    assert slots(tmp_path, cores=1).at_once(Need(0, 1)) == 1


def test_a_number_of_jobs_is_taken_at_its_word(tmp_path: Path) -> None:
    assert len(leases(slots(tmp_path, cores=2, jobs=5), Need(0, 2))) == 5
    few = slots(tmp_path, "abcd", jobs=3)
    assert few.at_once(Need(1, 0)) == 3
    assert len(leases(few, Need(1, 0))) == 3


@pytest.mark.parametrize(("asked", "given"), [(16, 4), (3, 3), (0, 0)])
def test_reading_processes_are_divided_among_the_jobs(tmp_path: Path, asked: int, given: int) -> None:
    runner = Runner(Sweep(tmp_path, []), Settings())
    runner.slots = slots(tmp_path, cores=8)
    config = {"threads": 4, "trainer": GPU, "data": {"num_workers": asked}}
    runner.divide_workers(config)
    assert config["data"]["num_workers"] == given


@pytest.mark.parametrize(
    ("trainer", "given", "expected"),
    [
        (GPU, None, Need(1, 0)),
        (GPU, 2, Need(2, 0)),
        ({"accelerator": "gpu", "devices": 2}, None, Need(2, 0)),
        (CPU, 2, Need(0, 4)),  # the CPU on purpose
        ({"accelerator": "gpu", "devices": [0, 1]}, None, "trainer.devices=[0, 1]: in a multirun GPUs are leased"),
        ({"accelerator": "gpu", "devices": 8}, None, "a job asks for 8 GPUs, of which there are 4"),
    ],
)
def test_what_a_job_needs(tmp_path: Path, trainer: dict, given: int | None, expected: Need | str) -> None:
    of, config = slots(tmp_path, "abcd"), {"threads": 2, "trainer": trainer}
    if isinstance(expected, Need):
        assert of.need(config, given) == expected
        return
    with pytest.raises(UserError) as told:
        of.need(config, given)
    assert expected in str(told.value)


def test_the_inventory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-ab")
    assert inventory() == ["2", "GPU-ab"]
    monkeypatch.setenv("LIGHTBED_GPUS", "0, 1")
    assert inventory() == ["0", "1"]
    monkeypatch.delenv("LIGHTBED_GPUS")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert inventory() == []
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert inventory() == []
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho 0\necho 1\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert inventory() == ["0", "1"]
