"""The C allocator's settings: freed memory is kept for the next step.

XLA allocates the temporary memory of a program at each call on a CPU. glibc maps blocks
of that size anew and unmaps them when they are freed, so that every step pays for fresh
pages.
"""

import ctypes
import os

# Parameters of mallopt, from malloc.h.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -3, -8
_MOST = 2**31 - 1  # the greatest value of a C int, 2 GiB


def keep_freed_memory(*, one_arena: bool = False) -> bool:
    """Makes glibc keep freed blocks below 2 GiB; does nothing with other allocators.

    Variables `MALLOC_…` and `GLIBC_TUNABLES` of the environment take precedence: with
    any of them set, nothing is changed.

    Args:
      one_arena: whether all threads share one heap. A thread's own heap holds at most
        64 MB, so that larger blocks are mapped anew in spite of the thresholds; but
        several devices would wait for one another.

    Returns:
      Whether the settings were changed.
    """
    if any(name.startswith(("MALLOC_", "GLIBC_TUNABLES")) for name in os.environ):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:  # musl, macOS, Windows
        return False
    changed = mallopt(_MMAP_THRESHOLD, _MOST) and mallopt(_TRIM_THRESHOLD, _MOST)
    if one_arena:
        changed = mallopt(_ARENA_MAX, 1) and changed
    return bool(changed)
