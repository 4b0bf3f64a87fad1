"""Flax's check of a parameter's shape without tracing the parameter's initializer.

At every `apply` Flax traces the initializer of each parameter to learn its shape, up to
a tenth of the time of tests. Initializers have their shape as first argument: where it
is that of the parameter, there is nothing to trace; all else is left to Flax.
"""

from flax.core import scope

_param = scope.Scope.param


def _checked_param(self, name, init_fn, *init_args, unbox=True, **init_kwargs):
    if init_args and isinstance(init_args[0], tuple):
        value = self.get_variable("params", name)
        if getattr(value, "shape", None) == init_args[0]:
            self.reserve(name, "params")
            return value
    return _param(self, name, init_fn, *init_args, unbox=unbox, **init_kwargs)


def install():
    """For this process."""
    scope.Scope.param = _checked_param
