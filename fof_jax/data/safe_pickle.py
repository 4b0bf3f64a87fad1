"""Other people's split pickles, read without running anything that they name.

A pickle is a program: it names functions and has them called. Here each name that
NumPy and pandas write for arrays, indices and frames stands for an inert reader of
ours, every other name is refused, and neither NumPy's nor pandas' own functions are
ever handed out. pandas is not needed.
"""

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

_KINDS = "biufSUO"  # of arrays; structured and other dtypes are refused


class PickleError(ValueError):
    """A pickle that is refused or cannot be read."""


class _Frozen(type):
    """Classes that a pickle cannot alter: its BUILD would set attributes on them."""

    def __setattr__(cls, name: str, value: object) -> None:
        raise PickleError(f"it sets {name} on a class")


class _Function:
    """A function that a pickle may call and not alter."""

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
    """What is of no use here, such as the strings of newer frames: takes anything."""

    def __new__(cls, *args: Any) -> "_Inert":
        return object.__new__(cls)

    def __init__(self, *args: Any):
        pass

    def __setstate__(self, state: object) -> None:
        pass

    def __setitem__(self, key: object, value: object) -> None:
        pass


class _Dtype(_Inert):
    """A NumPy dtype: its code, and the byte order that follows as its state."""

    def __init__(self, code: object = "", *_: object):
        self.code = code if isinstance(code, str) else ""

    def __setstate__(self, state: object) -> None:
        order = state[1] if isinstance(state, tuple) and len(state) > 1 else "|"
        if order in ("<", ">") and self.code[:1] not in ("<", ">"):
            self.code = order + self.code

    def numpy(self) -> np.dtype:
        """The dtype.

        Raises:
          PickleError: it is none of numbers, strings and objects.
        """
        try:
            dtype = np.dtype(self.code)
        except TypeError:
            dtype = np.dtype("V1")
        if dtype.kind not in _KINDS:
            raise PickleError(f"an array of dtype {self.code!r}")
        return dtype


class _Array(_Inert):
    """A NumPy array; `value` once its state has come."""

    value: Any = None

    def __setstate__(self, state: object) -> None:
        _, shape, dtype, fortran, data = _sequence(state, 5)
        self.value = _shaped(data, dtype, shape, "F" if fortran else "C")


class _Manager(_Inert):
    """pandas' BlockManager, of which the column labels are wanted."""

    def __init__(self, blocks: object = (), axes: object = ()):
        self.axes = axes

    def __setstate__(self, state: object) -> None:
        if isinstance(state, tuple) and state:  # before pandas 1.3: axes come first
            self.axes = state[0]


class _Frame(_Inert):
    """A pandas DataFrame: `labels` are its columns, or None if they are not text."""

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
    # How protocol 2 writes bytes.
    if not isinstance(text, str) or encoding != "latin1":
        raise PickleError("bytes that are not written as latin1")
    return text.encode("latin1")


def _readers() -> dict[tuple[str, str], Any]:
    readers: dict[tuple[str, str], Any] = {}

    def admit(modules: str, names: str, reader: Any) -> None:
        readers.update({(m, n): reader for m in modules.split()
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
    return readers


_READERS = _readers()


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """The reader that a name stands for."""
        try:
            return _READERS[module, name]
        except KeyError:
            raise PickleError(f"it names {module}.{name}") from None

    def persistent_load(self, pid: object) -> Any:
        """Nothing is stored outside of the files that are meant."""
        raise PickleError("it refers to something outside of it")


def _plain(value: Any, seen: dict[int, Any]) -> Any:
    """Readers replaced by what they have read; `seen` has what is done already."""
    if id(value) in seen:
        if seen[id(value)] is _Inert:
            raise PickleError("it holds itself")
        return seen[id(value)]
    if isinstance(value, dict | list | tuple):
        seen[id(value)] = _Inert  # a mark: begun and not done
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
    """Reads dicts, lists, text, numbers, arrays; a frame becomes its column labels.

    Args:
      path: a pickle from anywhere.

    Returns:
      Plain values; tuples become lists, what is not needed becomes None.

    Raises:
      PickleError: the file names anything else, or is damaged. Nothing was run.
    """
    data = Path(path).read_bytes()
    try:
        return _plain(_Unpickler(io.BytesIO(data)).load(), {})
    except PickleError as error:
        raise PickleError(
            f"{path} is refused: {error}. Only arrays, frames, lists and dicts are "
            "read from a pickle; nothing in it was run."
        ) from None
    # Broken bytes make the unpickler raise nearly anything.
    except Exception as error:
        raise PickleError(
            f"{path} cannot be read as a pickle ({type(error).__name__}: {error}). "
            "Nothing in it was run."
        ) from None
