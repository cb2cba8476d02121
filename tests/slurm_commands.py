"""What SLURM's commands do, on this machine alone.

``srun`` starts the tasks of a job side by side, each told which it is, and ends with the highest code; ``scontrol
requeue`` notes that it was asked for, and the test starts the job again as the queue would.
"""

import os
import stat
import subprocess
import sys
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
        "MASTER_PORT": str(port),
    }


def srun(words: list[str]) -> int:
    """Start the tasks, wait for them, and tell the highest code."""
    tasks = [
        subprocess.Popen(words, env={**os.environ, "SLURM_PROCID": rank, "SLURM_LOCALID": rank, "SLURM_NODEID": "0"})
        for rank in map(str, range(int(os.environ["SLURM_NTASKS"])))
    ]
    return max(task.wait() for task in tasks)


def scontrol(words: list[str]) -> None:
    """Note what was asked for."""
    with open(REQUEUED, "a", encoding="utf-8") as file:
        file.write(" ".join(words) + "\n")
