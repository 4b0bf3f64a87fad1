"""Type checks of a function made at its first call: most are never called in a process.

Making the checks of all functions takes longer than importing them.
"""

import functools

import beartype


def checked(function):
    """`beartype.beartype`, at the first call."""
    made = None

    @functools.wraps(function)
    def call(*args, **kwargs):
        nonlocal made
        if made is None:
            made = beartype.beartype(function)
        return made(*args, **kwargs)

    return call
