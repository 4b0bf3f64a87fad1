"""Restricted unpickler for untrusted split files.

Unpickling calls the functions that a pickle names. Here the names that NumPy and pandas
write for arrays, indices and frames map to inert placeholders, and all other names are
rejected: no function of NumPy or pandas is called. pandas is not required.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = "biufSUO"  # allowed dtype kinds; structured and other dtypes are rejected


class PickleError(ValueError):
    """A pickle that is rejected or unreadable."""


class _Frozen(type):
    """Metaclass of immutable classes: the BUILD opcode could set class attributes."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise PickleError(f"it sets {name} on a class")


class _Function:
    """Immutable wrapper of a function that a pickle may call."""

    __slots__ = ("_call",)
    _call: Callable

    def __init__(self, call: Callable):
        object.__setattr__(self, "_call", call)

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setattr__(self, name: str, value: object) -> None:
        raise PickleError(f"it sets {name} on a function")

    def __setstate__(self, state: object) -> None:
        raise PickleError("it gives a function a state")


class _Inert(metaclass=_Frozen):
    """Placeholder for objects that are ignored; accepts any arguments and state."""

    def __new__(cls, *args: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


class _Dtype(_Inert):
    """Placeholder of a NumPy dtype: type code, and byte order from its state."""

    def __init__(self, code: object = "", *_: object):
        self.code = code if isinstance(code, str) else ""

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        if order in ("<", ">") and self.code[:1] not in ("<", ">"):
            self.code = order + self.code

    def numpy(self) -> np.dtype:
        """Converts to a NumPy dtype.

        Raises:
          PickleError: not a dtype of numbers, strings or objects.
        """
        try:
            dtype = np.dtype(self.code)
        except TypeError:
            dtype = np.dtype("V1")
        if dtype.kind not in _KINDS:
            raise PickleError(f"an array of dtype {self.code!r}")
        return dtype


class _Array(_Inert):
    """Placeholder of a NumPy array; `value` is set with its state."""

    value: Any = None

    def __setstate__(self, state: object) -> None:
        _, shape, dtype, fortran, data = _sequence(state, 5)
        self.value = _shaped(data, dtype, shape, "F" if fortran else "C")


class _Manager(_Inert):
    """Placeholder of the pandas BlockManager; keeps the axes with the column labels."""

    def __init__(self, blocks: object = (), axes: object = ()):
        self.axes = axes

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and state:  # before pandas 1.3
            self.axes = state[0]


class _Frame(_Inert):
    """Placeholder of a pandas DataFrame; `labels` are its columns, None if unknown."""

    labels: tuple[str, ...] | None = None

    def __setstate__(self, state: object) -> None:
        manager = state
        if isinstance(state, dict):
            manager = state.get("_mgr", state.get("_data"))
        axes = getattr(manager, "axes", ())
        if isinstance(axes, list | tuple) and axes:
            labels = axes[0].value if isinstance(axes[0], _Array) else axes[0]
            if isinstance(labels, np.ndarray):
                self.labels = tuple(str(label) for label in labels.reshape(-1))


def _sequence(value: object, length: int) -> tuple | list:
    if not isinstance(value, tuple | list) or len(value) < length:
        raise PickleError("an array with a state of another form")
    return value


def _cell(item: object) -> str | int | float | None:
    return item if isinstance(item, str | int | float) else None


def _shaped(data: object, dtype: object, shape: object, order: str) -> np.ndarray:
    if not isinstance(dtype, _Dtype):
        raise PickleError("an array without a dtype")
    kind = dtype.numpy()
    sides = shape if isinstance(shape, tuple) else (shape,)
    if not all(isinstance(side, int) and side >= 0 for side in sides):
        raise PickleError(f"an array of shape {shape!r}")
    if kind.kind == "O":
        flat = np.empty(len(_sequence(data, 0)), object)
        flat[:] = [_cell(item) for item in _sequence(data, 0)]
    elif isinstance(data, bytes | bytearray):
        flat = np.frombuffer(data, kind).copy()
    else:
        raise PickleError("an array without bytes")
    if flat.size != np.prod(sides, dtype=np.int64):
        raise PickleError(f"an array of {flat.size} items and shape {shape!r}")
    return flat.reshape(sides, order="F" if order == "F" else "C")


def _from_buffer(data: object, dtype: object, shape: object, order: object = "C"):
    made = _Array()
    made.value = _shaped(data, dtype, shape, "F" if order == "F" else "C")
    return made


def _scalar(dtype: object, data: object = b"") -> Any:
    if isinstance(data, bytes):
        return _shaped(data, dtype, (), "C")[()]
    return _cell(data)


def _index(cls: object, state: object) -> Any:
    if isinstance(state, dict) and "data" in state:
        return state["data"]
    if isinstance(state, dict) and {"start", "stop"} <= state.keys():
        limits = [state["start"], state["stop"], state.get("step") or 1]
        if all(isinstance(limit, int) for limit in limits):
            return range(*limits)
    return _Inert()


def _latin1(text: object, encoding: object = "latin1") -> bytes:
    # Protocol 2 encodes bytes this way.
    if not isinstance(text, str) or encoding != "latin1":
        raise PickleError("bytes that are not written as latin1")
    return text.encode("latin1")


def _placeholders() -> dict[tuple[str, str], Any]:
    placeholders: dict[tuple[str, str], Any] = {}

    def admit(modules: str, names: str, placeholder: Any) -> None:
        placeholders.update({(m, n): placeholder for m in modules.split()
                        for n in names.split()})  # fmt: skip

    core, indexes = "numpy.core numpy._core", "pandas.core.indexes"
    arrays = " ".join(f"{m}.multiarray" for m in core.split())
    admit("numpy", "ndarray", _Inert)
    admit("numpy", "dtype", _Dtype)
    admit(arrays, "_reconstruct", _Function(lambda *_: _Array()))
    admit(arrays, "scalar", _Function(_scalar))
    admit("numpy.core.numeric numpy._core.numeric", "_frombuffer",
          _Function(_from_buffer))  # fmt: skip
    admit("pandas pandas.core.frame", "DataFrame", _Frame)
    managers = "pandas.core.internals pandas.core.internals.managers"
    admit(managers, "BlockManager", _Manager)
    admit("pandas._libs.internals", "_unpickle_block", _Function(lambda *_: _Inert()))
    admit(f"{indexes}.base", "_new_Index", _Function(_index))
    admit("pandas", "Index RangeIndex StringDtype", _Inert)
    admit(f"{indexes}.base", "Index", _Inert)
    admit(f"{indexes}.range", "RangeIndex", _Inert)
    admit(f"{indexes}.numeric", "Int64Index Float64Index", _Inert)
    admit("pandas.core.arrays.string_", "StringDtype", _Inert)
    admit("pandas.core.arrays.string_ pandas.core.arrays.string_arrow pandas.arrays",
          "StringArray ArrowStringArray", _Inert)  # fmt: skip
    admit("pyarrow.lib", "_restore_array py_buffer type_for_alias",
          _Function(lambda *_: _Inert()))  # fmt: skip
    admit("_codecs", "encode", _Function(_latin1))
    builtins = "builtins __builtin__"
    admit(builtins, "slice", _Function(lambda *_: _Inert()))
    admit(builtins, "bytearray", _Function(lambda *_: b""))
    return placeholders


_PLACEHOLDERS = _placeholders()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Returns the placeholder of a name."""
        try:
            return _PLACEHOLDERS[module, name]
        except KeyError:
            raise PickleError(f"it names {module}.{name}") from None

    def persistent_load(self, pid: object) -> Any:
        """Rejects persistent IDs."""
        raise PickleError("it refers to something outside of it")


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Replaces placeholders by plain values; `seen` maps IDs to converted objects."""
    if id(value) in seen:
        if seen[id(value)] is _Inert:
            raise PickleError("it holds itself")
        return seen[id(value)]
    if isinstance(value, dict | list | tuple):
        seen[id(value)] = _Inert  # marks an object in conversion, to detect cycles
        seen[id(value)] = done = (
            {_key(k): _plain(v, seen) for k, v in value.items()}
            if isinstance(value, dict)
            else [_plain(v, seen) for v in value]
        )
        return done
    if isinstance(value, _Array):
        return value.value
    if isinstance(value, _Frame):
        return value.labels
    return None if isinstance(value, _Inert) else value


def _key(key: Any) -> Any:
    return key if isinstance(key, str | int) else str(key)


def read_pickle(path: Path | str) -> Any:
    """Reads dicts, lists, text, numbers and arrays; frames become column labels.

    Args:
      path: an untrusted pickle.

    Returns:
      Plain values; tuples become lists, ignored objects become None.

    Raises:
      PickleError: the file names anything else, or is corrupt. No code was executed.
    """
    data = Path(path).read_bytes()
    try:
        return _plain(_Unpickler(io.BytesIO(data)).load(), {})
    except PickleError as error:
        raise PickleError(
            f"{path} is refused: {error}. Only arrays, frames, lists and dicts are "
            "read from a pickle; nothing in it was run."
        ) from None
    # On corrupt files the unpickler raises almost any exception.
    except Exception as error:
        raise PickleError(
            f"{path} cannot be read as a pickle ({type(error).__name__}: {error}). "
            "Nothing in it was run."
        ) from None
