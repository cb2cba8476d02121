"""Runs of the command that are killed at given moments and started again, in processes of their own.

``python killed_runs.py PLAN`` reads from a json file the words of commands and the kills of each, and prints what
became of the processes. Each is forked from this one, which has imported everything and computed nothing: they start at
once.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

MOMENTS = {
    "loading": 1,
    "micro-batch": 5,  # amid an accumulation or before it
    "validation": 6,
    "writing": 2,  # while the bytes of a checkpoint are written
    "written": 2,  # the file is whole and not yet in its place
    "published": 2,  # it is in its place, what it replaces is still there
    "row": 8,  # amid the writing of a row of measures
}
"""What a process can be killed at, and up to which n its n-th time comes soon; also "end": nothing is exported yet."""


def killed_and_resumed(folder, *jobs, timeout=600):
    """What became of the processes of each job: of a command and its kills, (moment, for the n-th time, seconds after).

    After the last kill the command is run to its end.
    """
    plan = Path(folder) / "plan.json"
    plan.write_text(json.dumps([[[str(word) for word in command], kills] for command, kills in jobs]))
    done = subprocess.run(
        [sys.executable, __file__, str(plan)], cwd=folder, capture_output=True, text=True, timeout=timeout, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


def rows_of(run):
    """metrics.csv without what depends on the machine."""
    with (Path(run) / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{name: cell for name, cell in row.items() if not name.startswith(("time/", "memory/"))} for row in rows]


def _main(plan):
    import orpo_lightning.cli
    import orpo_lightning.modules.preference  # noqa: F401

    print("\n" + json.dumps([_ends(*job) for job in json.loads(Path(plan).read_text())]), flush=True)


def _ends(command, kills):
    ends = []
    for kill in [*kills, None]:
        child = os.fork()
        if child == 0:
            _run(command, kill)
        _, status = os.waitpid(child, 0)
        ends.append(-os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status))
        if ends[-1] not in (0, -signal.SIGKILL):
            break
    return ends


def _run(command, kill):
    code = 1
    try:
        os.dup2(2, 1)
        sys.argv = ["orpo-lightning", *command]
        if kill:
            _arm(*kill)
        from orpo_lightning.__main__ import main

        main()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        os._exit(code)


def _arm(moment, times, delay):
    """Have the process killed some time after it has come to a moment for the n-th time."""
    import csv

    import torch

    from orpo_lightning.callbacks.checkpoints import Checkpoints
    from orpo_lightning.callbacks.export import ExportModel
    from orpo_lightning.checkpoint_io import SafeCheckpointIO
    from orpo_lightning.modules.preference import PreferenceModule

    left = [times]

    def reached():
        left[0] -= 1
        if left[0] == 0:
            if delay:
                timer = threading.Timer(delay, _die)
                timer.daemon = True
                timer.start()
            else:
                _die()

    def before(owner, name):
        original = getattr(owner, name)

        def wrapped(*args, **kwargs):
            reached()
            return original(*args, **kwargs)

        setattr(owner, name, wrapped)

    if moment == "written":
        original = SafeCheckpointIO.save_checkpoint

        def save(self, *args, **kwargs):
            replace, os.replace = os.replace, lambda *places: (reached(), replace(*places))
            try:
                return original(self, *args, **kwargs)
            finally:
                os.replace = replace

        SafeCheckpointIO.save_checkpoint = save
    elif moment == "writing":
        write = torch.save

        def halfway(value, file):
            class Half:
                def write(self, data):
                    file.write(data[: len(data) // 2])
                    file.flush()
                    reached()
                    return file.write(data[len(data) // 2 :]) + len(data) // 2

                def flush(self):
                    file.flush()

            write(value, Half())

        torch.save = halfway
    elif moment == "row":
        writer = csv.DictWriter

        class Torn(writer):
            def writerow(self, row):
                if len(row) > 3:
                    reached()
                return super().writerow(row)

        csv.DictWriter = Torn
    else:
        owners = {
            "loading": (PreferenceModule, "configure_model"),
            "micro-batch": (PreferenceModule, "training_step"),
            "validation": (PreferenceModule, "validation_step"),
            "published": (Checkpoints, "_remove_others"),
            "end": (ExportModel, "on_fit_end"),
        }
        before(*owners[moment])


def _die():
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    _main(sys.argv[1])
