"""Run ``main`` of a module of the tests on two ranks, which are forked when all that both import is there.

The process ends with 0 if both do, and kills the one that may wait for the other where that fails.
"""

import importlib.util
import os
import signal
import sys
import traceback
from pathlib import Path


def _imported(path):
    spec = importlib.util.spec_from_file_location(Path(path).stem, path)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(module, folder, rank):
    os.environ.update(RANK=rank, LOCAL_RANK=rank)
    code = 1
    try:
        module.main(Path(folder))
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _start(module, folder, rank):
    process = os.fork()
    if process == 0:
        _run(module, folder, rank)
    return process


def _wait(ranks):
    while ranks:
        ended, status = os.wait()
        ranks.discard(ended)
        if status:
            for rank in ranks:
                os.kill(rank, signal.SIGKILL)
            return 1
    return 0


if __name__ == "__main__":
    module = _imported(sys.argv[1])
    sys.exit(_wait({_start(module, sys.argv[2], rank) for rank in "01"}))
