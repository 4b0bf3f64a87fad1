"""The `.pt` reader on files written by pickle in torch's old format, and hostile ones.

The writer, tests/support/pt_files.py, is Python's own pickle and shares nothing with
the reader. Everything is exact.
"""

import contextlib
import io
import os
import pickle
import pickletools
import random
import struct
from collections import OrderedDict

import numpy as np
import pytest

from fof_jax.data.graphs import pt_reader, record
from tests.support import pt_files


def graph_attributes():
    rng = np.random.default_rng(0)
    edges = np.array([[0, 1, 1, 2], [1, 0, 2, 1]])
    return {
        "x": pt_files.tensor("10", rng.normal(size=(3, 4)).astype(np.float32)),
        "edge_index": pt_files.tensor("11", edges),
        "y": None,
        "centroid": pt_files.tensor("12", np.array([[5, 6], [7, 8], [9, 10]])),
        "__num_nodes__": 3,
    }


@pytest.fixture
def torch_names():
    with pt_files.torch_names() as modules:
        yield modules


@pytest.fixture
def write(tmp_path, torch_names):
    def write(attributes=None, **options):
        path = tmp_path / "graph.pt"
        path.write_bytes(
            pt_files.file_of(attributes or graph_attributes(), torch_names, **options)
        )
        return path

    return write


def test_attributes_and_graph_are_read_as_written(write):
    attributes = pt_reader.read_attributes(write())
    for name, written in graph_attributes().items():
        if isinstance(written, pt_files.Tensor):
            expected = written.arguments[0].values
            np.testing.assert_array_equal(attributes[name], expected)
            assert attributes[name].dtype == expected.dtype
        else:
            assert attributes[name] == written
    graph = pt_reader.read(write())
    assert graph.x.shape == (3, 4)
    assert graph.edge_index.dtype == np.int32
    assert graph.names[0] == "column_0"


def test_the_published_columns_are_named(write):
    x = np.zeros((3, 1036), np.float32)
    graph = pt_reader.read(write(graph_attributes() | {"x": pt_files.tensor("10", x)}))
    assert graph.names[:12] == record.CONTOUR + record.TEXTURE
    assert (graph.names[12], graph.names[-1]) == ("cpc_0", "cpc_1023")


def test_offsets_and_strides_are_obeyed(write):
    values = np.arange(24, dtype=np.float32)
    view = pt_files.tensor("10", values, shape=(3, 4), strides=(1, 3), offset=2)
    read = pt_reader.read_attributes(write(graph_attributes() | {"x": view}))
    np.testing.assert_array_equal(read["x"], values[2:14].reshape(4, 3).T)


def test_two_tensors_may_share_a_storage(write):
    shared = np.arange(8)
    attributes = graph_attributes() | {
        "edge_index": pt_files.tensor("11", shared, shape=(2, 2), strides=(2, 1)),
        "edge_attr": pt_files.tensor("11", shared, shape=(4,), strides=(1,), offset=4),
    }
    read = pt_reader.read_attributes(write(attributes))
    np.testing.assert_array_equal(read["edge_attr"], [4, 5, 6, 7])


def test_only_the_five_names_are_admitted():
    assert len(pt_reader.GLOBALS) == 5


class _Runs:
    """A pickle of this runs a command when it is loaded."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_a_file_that_would_run_code_is_refused(write, tmp_path):
    marker = tmp_path / "ran"
    for call in (
        _Runs(os.system, f"touch {marker}"),
        _Runs(eval, f"open({str(marker)!r}, 'w')"),
        _Runs(getattr, "x", "upper"),
    ):
        with pytest.raises(ValueError, match="is refused: it has the name"):
            pt_reader.read(write(graph_attributes() | {"y": call}))
    assert not marker.exists()


def test_an_admitted_name_is_not_called_with_other_arguments(write, torch_names):
    loop = OrderedDict([("a", 1)])
    rebuild = torch_names["torch._utils"]._rebuild_tensor_v2
    for value in (
        _Runs(OrderedDict, [["a", 1]]),
        _Runs(rebuild, 1, 2, 3),
        _Runs(torch_names["torch"].FloatStorage),
        loop,
    ):
        with pytest.raises(ValueError, match="is refused"):
            pt_reader.read(write(graph_attributes() | {"y": value}))


@pytest.mark.parametrize(
    ("view", "reason"),
    [
        ({"shape": (5, 5), "strides": (5, 1)}, "more entries than its storage"),
        ({"shape": (10**6, 10**6), "strides": (0, 0)}, "more entries"),
        ({"shape": (3, 4), "strides": (400, 1)}, "beyond its storage"),
        ({"shape": (3, 4), "strides": (4, 1), "offset": 1}, "beyond its storage"),
        ({"shape": (3, 4), "strides": (4, -1), "offset": 3}, "another form"),
        ({"shape": (3, 4), "strides": (4, 1), "offset": -1}, "another form"),
        ({"shape": (3, 4), "strides": (4,)}, "another form"),
        ({"shape": (2**50, 0), "strides": (0, 0)}, "another form"),
        ({"shape": ("a", 4), "strides": (4, 1)}, "another form"),
    ],
)
def test_views_outside_their_storage_are_refused(write, view, reason):
    x = pt_files.tensor("10", np.zeros((3, 4), np.float32), **view)
    with pytest.raises(ValueError, match=reason):
        pt_reader.read(write(graph_attributes() | {"x": x}))


def test_other_formats_and_cut_or_extended_files_are_refused(write):
    with pytest.raises(ValueError, match="another magic number"):
        pt_reader.read(write(magic=7))
    with pytest.raises(ValueError, match="after the last storage"):
        pt_reader.read(write(end=b"\0"))
    with pytest.raises(ValueError, match="storages that no tensor has"):
        pt_reader.read(write(keys=["10", "11"]))
    with pytest.raises(ValueError, match="storages that no tensor has"):
        pt_reader.read(write(keys=["10", "11", "12", "13"]))
    path = write()
    whole = path.read_bytes()
    for length in [*range(0, len(whole), 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="refused"):
            pt_reader.read(path)
    path.write_bytes(b"PK\x03\x04" + whole)  # the zip format of newer versions
    with pytest.raises(ValueError, match="refused"):
        pt_reader.read(path)


def test_opcodes_are_limited(write):
    with pytest.raises(ValueError, match="opcodes"):
        pt_reader.read(write(graph_attributes() | {"y": list(range(20_000))}))


def test_a_memo_with_a_huge_index_costs_nothing(write):
    # C's unpickler would allocate the memo up to the index.
    path = write()
    put = pickle.LONG_BINPUT + struct.pack("<I", 2**32 - 1)
    path.write_bytes(pickle.PROTO + b"\x02" + b"N" + put + b"." + b"N.")
    with pytest.raises(ValueError, match="another magic number"):
        pt_reader.read(path)


def test_damaged_bytes_raise_nothing_but_value_errors(write):
    path = write()
    whole = path.read_bytes()
    pickled = whole.index(b"cpu")
    draw = random.Random(0)
    for _ in range(500):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            damaged[draw.randrange(2 * pickled)] = draw.randrange(256)
        path.write_bytes(damaged)
        with contextlib.suppress(ValueError):
            pt_reader.read(path)


def test_the_writer_is_the_format_that_was_specified(write):
    data = io.BytesIO(write().read_bytes())
    names = {
        argument
        for _ in range(5)
        for opcode, argument, _ in pickletools.genops(data)
        if opcode.name == "GLOBAL"
    }
    assert names == pt_reader.GLOBALS
