"""The command, as a user types it, in a process of its own that starts at once.

Each is forked from a process that has imported everything and computed nothing, in the order in which the command
itself does so: what it prints is without secrets from the start.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path


class Forks:
    """Starts processes until it is closed.

    Args:
        environment: that in which everything is imported.
    """

    def __init__(self, environment):
        self._server = subprocess.Popen(
            [sys.executable, __file__], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def run(self, words, folder, environment):
        """Run a command; returns its exit code and what it printed."""
        with tempfile.NamedTemporaryFile() as printed:
            job = {"words": [*map(str, words)], "folder": str(folder), "environment": environment}
            self._server.stdin.write(json.dumps({**job, "printed": printed.name}) + "\n")
            self._server.stdin.flush()
            code = int(self._server.stdout.readline())
            return code, Path(printed.name).read_text(encoding="utf-8", errors="replace")

    def close(self):
        self._server.stdin.close()
        self._server.wait(timeout=60)


def _serve():
    from orpo_lightning.secrets import hidden_output

    with hidden_output():
        import orpo_lightning.cli
        import orpo_lightning.modules.preference  # noqa: F401  # what is imported here is there in each fork

        for line in sys.stdin:
            job = json.loads(line)
            child = os.fork()
            if child == 0:
                _run(**job)
            _, status = os.waitpid(child, 0)
            code = -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
            os.write(1, f"{code}\n".encode())


def _run(words, folder, environment, printed):
    for number in (1, 2):
        os.dup2(os.open(printed, os.O_WRONLY | os.O_APPEND), number)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = environment["PYTHONPATH"].split(os.pathsep)
    sys.argv = ["orpo-lightning", *words]
    code = 1
    try:
        from orpo_lightning.__main__ import console

        console()
        code = 0
    except SystemExit as end:
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
        else:
            code = end.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        if "wandb" in sys.modules:
            sys.modules["wandb"].teardown()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


if __name__ == "__main__":
    _serve()
