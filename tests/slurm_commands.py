"""What SLURM's commands do, on this machine alone.

``srun`` starts the tasks of a job side by side, each told which it is and how many CPUs it has, and ends with the
highest code; where that is asked for, a task that fails ends the others. ``scontrol requeue`` notes that it was asked
for, and the test starts the job again as the queue would.
"""

import argparse
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

REQUEUED = "requeued.txt"


def make_commands(folder: Path) -> None:
    """Put the commands into a folder, and one that runs this package."""
    package = "from orpo_lightning.__main__ import console; console()"
    for name, code in {
        "srun": "import slurm_commands, sys; sys.exit(slurm_commands.srun(sys.argv[1:]))",
        "scontrol": "import slurm_commands, sys; slurm_commands.scontrol(sys.argv[1:])",
        "orpo-lightning": package,
    }.items():
        path = folder / name
        path.write_text(f"#!{sys.executable}\n{code}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)


def job(number: int, tasks: int, port: int) -> dict[str, str]:
    """What the batch script of a job on one machine finds in its environment."""
    return {
        **{"SLURM_JOB_ID": str(number), "SLURM_JOB_NAME": "orpo", "SLURM_NODELIST": "127.0.0.1"},
        **{"SLURM_NNODES": "1", "SLURM_NTASKS": str(tasks), "SLURM_NTASKS_PER_NODE": str(tasks)},
        **{"SLURM_CPUS_PER_TASK": "3", "MASTER_PORT": str(port)},
    }


def srun(words: list[str]) -> int:
    """Start the tasks, each in a process group that gets its signals, wait for them, and tell the highest code."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--cpus-per-task", type=int, default=1)  # not that of the job, since SLURM 22.05
    parser.add_argument("--kill-on-bad-exit", type=int, choices=(0, 1), default=0)
    parser.add_argument("command", nargs=argparse.REMAINDER)
    options = parser.parse_args(words)
    told = {"SLURM_CPUS_PER_TASK": str(options.cpus_per_task), "SLURM_NODEID": "0"}
    tasks = [
        subprocess.Popen(
            options.command,
            env={**_seen_by(rank), **told, "SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)},
            process_group=0,
        )
        for rank in range(int(os.environ["SLURM_NTASKS"]))
    ]
    is_ending = False
    while any(task.poll() is None for task in tasks):
        if options.kill_on_bad_exit and not is_ending and any(task.poll() for task in tasks):
            is_ending = True
            for task in tasks:
                if task.poll() is None:
                    os.killpg(task.pid, signal.SIGKILL)
        time.sleep(0.05)
    return max(code if code >= 0 else 128 - code for code in (task.wait() for task in tasks))


def _seen_by(rank: int) -> dict[str, str]:
    """The environment of a task; all but the first find what the script has made in TMPDIR as on another machine."""
    made_here = os.path.join(os.environ["TMPDIR"], "")
    seen = made_here if rank == 0 else os.path.join(made_here, "of another machine", "")
    return {name: value.replace(made_here, seen) for name, value in os.environ.items()}


def scontrol(words: list[str]) -> None:
    """Note what was asked for."""
    with Path(sys.argv[0]).with_name(REQUEUED).open("a", encoding="utf-8") as file:
        file.write(" ".join(words) + "\n")
