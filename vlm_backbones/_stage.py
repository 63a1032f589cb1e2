"""Run a module as a stage of a study: it dies with the study's process, and its errors are one message.

`python -m vlm_backbones._stage PARENT_PID MODULE ARGS...`
"""

from __future__ import annotations

import ctypes
import os
import runpy
import signal
import sys

from vlm_backbones.errors import VlmBackbonesError

_PR_SET_PDEATHSIG = 1  # Linux: prctl(2)


def die_with(parent_pid: int) -> None:
    """Ask the kernel to kill this process when its parent dies, so that a killed study leaves nothing behind."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        sys.exit("the study that started this stage has ended")


def main(argv: list[str]) -> None:
    """Run the module as `python -m MODULE ARGS` would."""
    parent_pid, module, *arguments = argv
    die_with(int(parent_pid))
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)  # Slurm's warning is for the parent; some clusters send it to all
    sys.argv = [module, *arguments]
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except VlmBackbonesError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main(sys.argv[1:])
