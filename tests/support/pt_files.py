"""Graphs in torch's old pickle format, written without torch.

Python's own pickle with classes of the published names: nothing is shared with the
reader of the package.
"""

import contextlib
import io
import pickle
import struct
import sys
import types
from collections import OrderedDict

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
WORDS = {"protocol_version": 1001, "little_endian": True,
         "type_sizes": {"short": 2, "int": 4, "long": 4}}  # fmt: skip


class Storage:
    def __init__(self, kind, key, values):
        self.kind, self.key, self.values = kind, key, values


class Tensor:
    """Pickles as torch's tensors do."""

    def __init__(self, storage, offset, shape, strides):
        self.arguments = (storage, offset, shape, strides, False, OrderedDict())

    def __reduce__(self):
        rebuild = sys.modules["torch._utils"]._rebuild_tensor_v2
        return rebuild, self.arguments


def tensor(key, array, *, shape=None, strides=None, offset=0):
    kind = {"f": "FloatStorage", "i": "LongStorage"}[array.dtype.kind]
    storage = Storage(kind, key, array)
    strides = strides or tuple(s // array.itemsize for s in array.strides)
    return Tensor(storage, offset, shape or array.shape, strides)


@contextlib.contextmanager
def torch_names():
    """Modules with the five names, while the writer needs them."""
    modules = {
        name: types.ModuleType(name)
        for name in (
            "torch", "torch._utils", "torch_geometric", "torch_geometric.data",
            "torch_geometric.data.data",
        )
    }  # fmt: skip
    before = {name: sys.modules.get(name) for name in modules}
    sys.modules.update(modules)

    def define(module, name, value):
        value.__module__, value.__qualname__, value.__name__ = module, name, name
        setattr(modules[module], name, value)

    define("torch", "FloatStorage", type("FloatStorage", (), {}))
    define("torch", "LongStorage", type("LongStorage", (), {}))
    define("torch_geometric.data.data", "Data", type("Data", (), {}))
    define("torch._utils", "_rebuild_tensor_v2", lambda *args: None)
    try:
        yield modules
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def file_of(attributes, modules, *, magic=MAGIC, keys=None, end=b""):
    out, storages = io.BytesIO(), {}

    class Pickler(pickle.Pickler):
        def persistent_id(self, value):
            if not isinstance(value, Storage):
                return None
            storages[value.key] = value.values
            kind = getattr(modules["torch"], value.kind)
            return ("storage", kind, value.key, "cpu", value.values.size, None)

    data = modules["torch_geometric.data.data"].Data()
    data.__dict__.update(attributes)
    for part in (magic, PROTOCOL, WORDS):
        pickle.dump(part, out, protocol=2)
    Pickler(out, protocol=2).dump(data)
    keys = sorted(storages) if keys is None else keys
    pickle.dump(keys, out, protocol=2)
    for key in keys:
        values = storages.get(key, np.zeros(1, np.float32))
        out.write(struct.pack("<q", values.size) + values.tobytes())
    return out.getvalue() + end
