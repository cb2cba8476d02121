"""The memory that a process has: of the machine, of the container or job that it is in, or of its own limit."""

import resource
import sys
from types import SimpleNamespace

import pytest
import torch

from orpo_lightning.device_memory import Memory, memory_of

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the files are those of Linux")
CPU = torch.device("cpu")
GIB = 2**30
NO_LIMIT_V1 = 9223372036854771712


@pytest.fixture
def machine(tmp_path):
    """A machine of 64 GiB of which 48 are free, and the groups that the process is in."""

    def make(groups="", files=()):
        meminfo = f"MemTotal: {64 * GIB // 1024} kB\nMemFree: 1 kB\nMemAvailable: {48 * GIB // 1024} kB\n"
        status = f"VmSize: {GIB // 1024} kB\n"
        written = {"proc/meminfo": meminfo, "proc/self/status": status, "proc/self/cgroup": groups, **dict(files)}
        for name, text in written.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return make


def v1(group, limit, used=0, cached=0):
    """The files of a group of the first version: `cached` of what is used are files."""
    stat = f"cache 7\ninactive_file 7\ntotal_inactive_file {cached}\ntotal_active_file 0\n"
    return files(f"sys/fs/cgroup/memory/{group}", ("limit_in_bytes", limit), ("usage_in_bytes", used), ("stat", stat))


def v2(group, limit, used=0, cached=0):
    """The same of the second."""
    stat = f"anon {used - cached}\ninactive_file 0\nactive_file {cached}\n"
    return files(f"sys/fs/cgroup/{group}", ("max", limit), ("current", used), ("stat", stat))


def files(folder, *contents):
    return {f"{folder}/memory.{name}": f"{content}\n" for name, content in contents}


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("", {}),
        ("0::/\n", {}),
        ("0::/user.slice\n", v2("user.slice", "max")),
        ("4:memory:/\n0::/\n", v1("", NO_LIMIT_V1)),
        ("0::/user.slice\n", v2("user.slice", 1024 * GIB)),
        ("3:cpu,cpuacct:/job\n", v1("job", GIB)),  # it is in this group for its CPUs alone
    ],
    ids=["no groups", "the top one", "no limit", "no limit, v1", "more than there is", "another group"],
)
def test_without_a_limit_it_is_that_of_the_machine(machine, groups, files):
    assert memory_of(CPU, 1, machine(groups, files)) == Memory(64 * GIB, 48 * GIB)


def test_processes_on_one_machine_share_it(machine):
    assert memory_of(CPU, 2, machine()) == Memory(32 * GIB, 24 * GIB)
    limited = machine("0::/\n", v2("", 8 * GIB, used=2 * GIB))
    assert memory_of(CPU, 2, limited) == Memory(4 * GIB, 3 * GIB)


@pytest.mark.parametrize(
    ("groups", "files"),
    [
        ("0::/\n", v2("", 8 * GIB, 3 * GIB, GIB)),
        ("0::/docker/4f2a\n", v2("", 8 * GIB, 3 * GIB, GIB)),
        ("0::/slurm/job_7/step_0\n", v2("slurm/job_7/step_0", 8 * GIB, 3 * GIB, GIB)),
        ("0::/slurm/job_7/step_0\n", v2("slurm/job_7", 8 * GIB, 3 * GIB, GIB) | v2("slurm/job_7/step_0", "max")),
        ("1:cpu:/\n4:hugetlb,memory:/docker/4f2a\n0::/\n", v1("docker/4f2a", 8 * GIB, 3 * GIB, GIB)),
        ("4:memory:/docker/4f2a\n", v1("", 8 * GIB, 3 * GIB, GIB)),
        ("4:memory:/job/step\n", v1("job/step", NO_LIMIT_V1) | v1("job", 8 * GIB, 3 * GIB, GIB)),
    ],
    ids=[
        "container",
        "its path outside",
        "job",
        "around the step",
        "v1",
        "v1, its path outside",
        "v1, around the step",
    ],
)
def test_the_limit_of_a_container_or_job_counts_and_files_in_memory_are_free(machine, groups, files):
    assert memory_of(CPU, 1, machine(groups, files)) == Memory(8 * GIB, 6 * GIB)


def test_the_least_of_several_limits_counts(machine):
    root = machine("0::/job/step\n", v2("job", 4 * GIB, GIB) | v2("job/step", 8 * GIB, 7 * GIB))
    assert memory_of(CPU, 1, root) == Memory(4 * GIB, GIB)


def test_the_limit_of_a_process_is_for_itself(machine, monkeypatch):
    monkeypatch.setattr(resource, "getrlimit", lambda _: (4 * GIB, resource.RLIM_INFINITY))
    assert memory_of(CPU, 2, machine()) == Memory(4 * GIB, 3 * GIB)


def test_a_device_that_is_not_here_has_none():
    assert memory_of(torch.device("meta"), 1) is None


def test_this_machine_tells():
    found = memory_of(CPU, 1)
    assert 0 < found.free <= found.total


def test_of_a_gpu_that_the_process_does_not_use_the_size_alone_is_told(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(total_memory=7 * GIB))
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: pytest.fail("that takes memory there"))
    assert memory_of(torch.device("cuda"), 8) == (7 * GIB, None)
