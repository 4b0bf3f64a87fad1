"""Reads the `.pt` cell graphs of Pathomic Fusion without torch, and runs nothing.

Such a file, of torch's format before 1.6, is five pickles (magic number, protocol,
word sizes, object, storage keys) and then each storage as an int64 count and raw
values. The pickles are interpreted here, opcode by opcode, into inert records. The five
names that these files contain are only compared, never looked up or called, and any
other name or opcode is refused.
"""

import dataclasses
import io
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from fof_jax.data.graphs import record

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
COLUMNS = [*record.CONTOUR, *record.TEXTURE, *(f"cpc_{i}" for i in range(1024))]

_DATA = "torch_geometric.data.data Data"
_REBUILD = "torch._utils _rebuild_tensor_v2"
_ORDERED_DICT = "collections OrderedDict"
_DTYPES = {"torch FloatStorage": "<f4", "torch LongStorage": "<i8"}
GLOBALS = frozenset({_DATA, _REBUILD, _ORDERED_DICT, *_DTYPES})
_MAX_OPCODES = 10_000  # per pickle; the published files have about 150


@dataclasses.dataclass(frozen=True)
class _Global:
    name: str


@dataclasses.dataclass(frozen=True)
class _Storage:
    key: str
    dtype: np.dtype
    count: int


@dataclasses.dataclass(frozen=True)
class _Tensor:
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclasses.dataclass
class _Data:
    attributes: dict[str, Any] | None = None


class _Refused(ValueError):
    """Something that does not belong in such a file."""


class _Machine:
    """The stack, marks and memo of one pickle."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}

    def step(self, opcode: str, argument: Any) -> None:
        """Runs one opcode.

        Raises:
          _Refused: an opcode, name, call or state that such a file does not have.
          IndexError, KeyError: the stack, the marks or the memo lack an entry.
        """
        match opcode:
            case "PROTO" | "STOP":
                pass
            case "BININT" | "BININT1" | "BININT2" | "LONG1" | "BINUNICODE":
                self.stack.append(argument)
            case "NONE":
                self.stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                self.stack.append(opcode == "NEWTRUE")
            case "EMPTY_TUPLE":
                self.stack.append(())
            case "EMPTY_LIST":
                self.stack.append([])
            case "EMPTY_DICT":
                self.stack.append({})
            case "MARK":
                self.marks.append(len(self.stack))
            case "TUPLE":
                self.stack.append(tuple(self._from_mark()))
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                self.stack.append(tuple(self._last(int(opcode[-1]))))
            case "APPEND" | "APPENDS":
                items = self._last(1) if opcode == "APPEND" else self._from_mark()
                self._top(list).extend(items)
            case "SETITEM" | "SETITEMS":
                items = self._last(2) if opcode == "SETITEM" else self._from_mark()
                keys = items[::2]
                if len(items) % 2 or not all(isinstance(key, str) for key in keys):
                    raise _Refused("a dictionary whose keys are not text")
                self._top(dict).update(zip(keys, items[1::2], strict=True))
            case "BINPUT" | "LONG_BINPUT":
                self.memo[argument] = self.stack[-1]
            case "BINGET" | "LONG_BINGET":
                self.stack.append(self.memo[argument])
            case "GLOBAL":
                if argument not in GLOBALS:
                    raise _Refused(f"the name {argument!r:.80}")
                self.stack.append(_Global(argument))
            case "BINPERSID":
                self.stack.append(_storage(self.stack.pop()))
            case "NEWOBJ" | "REDUCE":
                function, arguments = self._last(2)
                self.stack.append(_call(opcode, function, arguments))
            case "BUILD":
                state, target = self.stack.pop(), self._top(_Data)
                if not isinstance(state, dict) or target.attributes is not None:
                    raise _Refused("an object with a state of another form")
                target.attributes = state
            case _:
                raise _Refused(f"the opcode {opcode}")

    def _last(self, count: int) -> list[Any]:
        if len(self.stack) < count:
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _from_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def _top(self, kind: type) -> Any:
        if not isinstance(self.stack[-1], kind):
            raise _Refused(f"an opcode that requires a {kind.__name__.strip('_')}")
        return self.stack[-1]


def _call(opcode: str, function: Any, arguments: Any) -> Any:
    """The records that stand for the three calls of such a file."""
    name = function.name if isinstance(function, _Global) else None
    if (opcode, name, arguments) == ("NEWOBJ", _DATA, ()):
        return _Data()
    if (opcode, name, arguments) == ("REDUCE", _ORDERED_DICT, ()):
        return {}
    if (opcode, name) == ("REDUCE", _REBUILD):
        match arguments:
            case (_Storage() as storage, offset, tuple(shape), tuple(strides), *_):
                sizes = (offset, *shape, *strides)
                if len(shape) == len(strides) and all(map(_is_size, sizes)):
                    return _Tensor(storage, offset, shape, strides)
        raise _Refused("a tensor of another form")
    raise _Refused("a call of another form")


def _is_size(value: Any) -> bool:
    return type(value) is int and 0 <= value < 2**40


def _storage(pid: Any) -> _Storage:
    match pid:
        case ("storage", _Global(name), str(key), str(), count, None):
            if name in _DTYPES and _is_size(count):
                return _Storage(key, np.dtype(_DTYPES[name]), count)
    raise _Refused("a storage of another form")


def _load(file: io.BytesIO) -> Any:
    """One pickle, from the file's position to its end."""
    machine = _Machine()
    for count, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if count >= _MAX_OPCODES:
            raise _Refused(f"more than {_MAX_OPCODES} opcodes")
        try:
            machine.step(opcode.name, argument)
        except (IndexError, KeyError):
            raise _Refused("opcodes that do not fit together") from None
    if len(machine.stack) != 1 or machine.marks:
        raise _Refused("opcodes that do not fit together")
    return machine.stack[0]


def _values(file: io.BytesIO, storage: _Storage) -> bytes:
    head = file.read(8)
    if len(head) < 8 or int.from_bytes(head, "little") != storage.count:
        raise _Refused("a storage of another size than announced")
    data = file.read(storage.count * storage.dtype.itemsize)
    if len(data) < storage.count * storage.dtype.itemsize:
        raise _Refused("fewer values than announced")
    return data


def _array(tensor: _Tensor, data: bytes) -> np.ndarray:
    item = tensor.storage.dtype.itemsize
    if np.prod(tensor.shape, dtype=object) > tensor.storage.count:
        raise _Refused("a tensor with more entries than its storage")
    try:  # NumPy checks that every entry lies inside
        view: np.ndarray = np.ndarray(
            tensor.shape,
            tensor.storage.dtype,
            data,
            tensor.offset * item,
            tuple(stride * item for stride in tensor.strides),
        )
    except (ValueError, TypeError, OverflowError):
        raise _Refused("a tensor that reaches beyond its storage") from None
    return view.astype(tensor.storage.dtype.newbyteorder("="))


def _attributes(file: io.BytesIO) -> dict[str, Any]:
    magic, protocol = _load(file), _load(file)
    if (magic, protocol) != (MAGIC, PROTOCOL):
        raise _Refused("another magic number than torch's format before 1.6")
    _load(file)  # word sizes of the writer
    data, keys = _load(file), _load(file)
    if not isinstance(data, _Data) or not isinstance(data.attributes, dict):
        raise _Refused("another object than a torch-geometric Data")
    tensors = {k: v for k, v in data.attributes.items() if isinstance(v, _Tensor)}
    storages = {t.storage.key: t.storage for t in tensors.values()}
    if (
        not isinstance(keys, list)
        or len(keys) != len(storages)
        or any(not isinstance(key, str) or key not in storages for key in keys)
    ):
        raise _Refused("storages that no tensor has, or the reverse")
    values = {key: _values(file, storages[key]) for key in keys}
    if file.read(1):
        raise _Refused("bytes after the last storage")
    for name, value in data.attributes.items():
        if not isinstance(value, _Tensor | int | None):
            raise _Refused(f"an attribute {name!r:.40} that is no array or number")
    if any(storages[t.storage.key] != t.storage for t in tensors.values()):
        raise _Refused("two storages with one key")
    return data.attributes | {
        name: _array(tensor, values[tensor.storage.key])
        for name, tensor in tensors.items()
    }


def read_attributes(path: Path | str) -> dict[str, Any]:
    """The attributes of the torch-geometric object in a file.

    Args:
      path: a file of torch's format before 1.6, from anywhere.

    Returns:
      By name: float32 and int64 arrays, integers, None.

    Raises:
      ValueError: the file has anything else in it, or is damaged. Nothing was run.
      FileNotFoundError: it does not exist.

    Source: methods/clat_pathgcn.md, "The distributed .pt graphs".
    """
    try:
        return _attributes(io.BytesIO(Path(path).read_bytes()))
    except ValueError as error:  # genops raises it for damaged pickles
        raise ValueError(
            f"{path} is refused: it has {error!s:.200}. Expected a cell graph of "
            "Pathomic Fusion as distributed; nothing in the file was run."
        ) from None


def read(path: Path | str) -> record.CellGraph:
    """The cell graph in a file; see `read_attributes`.

    Raises:
      ValueError: also if x, edge_index or centroid are missing or do not fit together.
    """
    attributes = read_attributes(path)
    arrays = {}
    for name in ("x", "edge_index", "centroid"):
        value = attributes.get(name)
        if not isinstance(value, np.ndarray) or value.ndim != 2:
            raise ValueError(
                f"{path}: {name} is no matrix. Expected a distributed cell graph."
            )
        arrays[name] = value
    count = arrays["x"].shape[1]
    names = COLUMNS if count == len(COLUMNS) else [f"column_{i}" for i in range(count)]
    try:
        return record.create(**arrays, names=names)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
