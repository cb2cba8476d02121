"""Runs of the command that are killed at given moments and started again, in processes of their own.

``python killed_runs.py PLAN`` reads from a json file the words of commands and the kills of each, and prints what
became of the processes. Each is forked from this one, which has imported everything and computed nothing: they start at
once. The processes of a run on several ranks are started as torchrun starts them, and end as it ends them: where one is
killed, the others are told to stop.
"""

import csv
import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from ports import free_port

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

MOMENTS_OF_FOLDERS = {
    "loading": 1,
    "micro-batch": 5,
    "validation": 6,
    "writing": 3,  # while the bytes of this rank's part of a checkpoint are written
    "renaming": 5,  # before the renames by which a folder that is whole takes the place of another
    "published": 2,
    "row": 8,
}
"""The same where checkpoints are folders that each rank writes its part of."""

OF_ALL_RANKS = ("loading", "micro-batch", "validation")
"""What every rank comes to; to all else the first alone, but each writes its part of a folder."""


def killed_and_resumed(folder, *jobs, ranks=1, timeout=600):
    """What became of the processes of each job: of a command and its kills, (moment, for the n-th time, seconds after).

    After the last kill the command is run to its end. Of several ranks the one that is killed is the last number of a
    kill, and what became of it is told.
    """
    plan = Path(folder) / "plan.json"
    plan.write_text(json.dumps([[[str(word) for word in command], kills, ranks] for command, kills in jobs]))
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
    import orpo_lightning.modules.preference  # noqa: F401  # what is imported here is there in each fork

    print("\n" + json.dumps([_ends(*job) for job in json.loads(Path(plan).read_text())]), flush=True)


def _ends(command, kills, ranks):
    ends = []
    for kill in [*kills, None]:
        victim = kill[3] if kill and ranks > 1 else 0
        port = free_port()
        processes = [
            _fork(command, kill[:3] if kill and rank == victim else None, _place(rank, ranks, port))
            for rank in range(ranks)
        ]
        codes = _codes(processes)
        ends.append(next((code for code in [codes[victim], *codes] if code), 0))
        if ends[-1] not in (0, -signal.SIGKILL):
            break
    return ends


def _fork(command, kill, environment):
    child = os.fork()
    if child == 0:
        os.environ.update(environment)
        _run(command, kill)
    return child


def _place(rank, ranks, port):
    """What torchrun tells a process of itself."""
    if ranks == 1:
        return {}
    return {
        **{"RANK": str(rank), "LOCAL_RANK": str(rank), "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": str(port)},
        **{"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)},
        **{"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)},
    }


def _codes(processes, patience=30):
    """How processes end; where one does not end well, the others are asked to, and after some seconds have to."""
    codes, last_moment = {}, None
    while len(codes) < len(processes):
        left = [each for each in processes if each not in codes]
        for process in left:
            ended, status = os.waitpid(process, os.WNOHANG)
            if ended:
                codes[process] = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        left = [each for each in processes if each not in codes]
        if any(codes.values()) and last_moment is None:
            last_moment = time.monotonic() + patience
            for process in left:
                os.kill(process, signal.SIGTERM)
        if last_moment is not None and time.monotonic() > last_moment:
            for process in left:
                os.kill(process, signal.SIGKILL)
        time.sleep(0.01)
    return [codes[process] for process in processes]


def _run(command, kill):
    code = 1
    try:
        os.dup2(2, 1)
        sys.argv = ["orpo-lightning", *command]
        if kill:
            _arm(*kill)
        from lightning.pytorch.utilities import rank_zero_only

        from orpo_lightning.__main__ import main

        rank_zero_only.rank = int(os.environ.get("RANK", 0))  # Lightning has looked when it was imported
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

    from orpo_lightning import whole_folder
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
    elif moment == "renaming":
        exchange = whole_folder._exchange

        def renamed(*args):
            rename, os.rename = os.rename, lambda *places: (reached(), rename(*places))
            try:
                return exchange(*args)
            finally:
                os.rename = rename

        whole_folder._exchange = renamed
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
