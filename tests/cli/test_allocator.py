"""Freed memory is kept: the second use of a large block touches no new pages."""

import ctypes
import os
import subprocess
import sys

import pytest

glibc = pytest.mark.skipif(
    not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt"
)

# Page faults while a block of 256 MB is filled for the second time, in pages of it.
CHILD = """
import ctypes, resource, sys
from fof_jax.cli import allocator
changed = sys.argv[1] == "keep" and allocator.keep_freed_memory(one_arena=True)
libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.free.argtypes = (ctypes.c_void_p,)
size = 256 * 2**20
for _ in range(2):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = libc.malloc(ctypes.c_size_t(size))
    ctypes.memset(block, 1, size)
    libc.free(block)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(changed, faults)
"""


def second_use(action: str, **variables: str) -> tuple[str, int]:
    environment = {
        name: value for name, value in os.environ.items() if "MALLOC" not in name
    }
    out = subprocess.run(
        [sys.executable, "-c", CHILD, action],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    return out[0], int(out[1])


@glibc
def test_a_freed_block_is_used_again():
    _, faults = second_use("leave")
    assert faults > 100  # mapped anew; pages may be large
    changed, kept = second_use("keep")
    assert changed == "True"
    assert kept < faults / 10


@glibc
def test_variables_of_the_environment_take_precedence():
    assert second_use("keep", MALLOC_ARENA_MAX="2")[0] == "False"
