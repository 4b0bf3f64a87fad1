"""Runs one command in a process that ends when its parent does.

python -m fof_jax.cli.child PARENT_PID COMMAND FLAGS

Used by `compare`, whose cells must not go on alone after it was killed. Linux only: on
other systems a cell runs to its end, under the lock of its fold.
"""

import ctypes
import os
import signal
import sys

from fof_jax.cli.main import main

_PR_SET_PDEATHSIG = 1


def end_with(parent: int) -> None:
    """Has the kernel kill this process when `parent` ends, or exits if it has ended."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        sys.exit(128 + signal.SIGKILL)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    sys.exit(main(sys.argv[2:]))
