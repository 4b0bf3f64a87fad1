"""Split pickles are read, and a pickle that would do anything else is refused.

`pickles/*.pkl` were written by pandas 1.5.3 with NumPy 1.26 and by pandas 3.1 with
NumPy 2, from five invented patients, in the forms of Pathomic Fusion and the release.
"""

import os
import pickle
import struct
import sys
from pathlib import Path

import numpy as np
import pytest

from fof_jax.data.errors import DataWarning
from fof_jax.data.external_splits import pickle_folds, zscored_message
from fof_jax.data.metadata import Metadata
from fof_jax.data.safe_pickle import PickleError, read_pickle
from tests.support.metadata import columns

FILES = sorted((Path(__file__).parents[1] / "pickles").glob("*.pkl"))
PATIENTS = [f"TCGA-AA-{k:04d}" for k in range(5)]
# (train, test) patients of each fold, as the files were made.
FOLDS = [([0, 1, 2], [3, 4]), ([2, 3, 4], [0, 1])]


def table(patients=PATIENTS, each=2) -> Metadata:
    n = len(patients) * each
    owners = [p for p in patients for _ in range(each)]
    names = [f"{p}-01Z-00-DX1.abc_{i % each + 1}.png" for i, p in enumerate(owners)]
    return Metadata(
        classes=("II", "III", "IV"), biomarkers=(), float_markers=(),
        images=tuple(names), patients=tuple(owners),
        grades=np.zeros(n, np.int32),
        biomarker_values=np.zeros((n, 0), np.int32), known=np.zeros((n, 0), bool),
        floats=np.zeros((n, 0), np.float32), folds=None,
    )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_files_of_old_and_new_pandas(path):
    before = set(sys.modules)
    document = read_pickle(path)
    assert not {m for m in set(sys.modules) - before if "pandas" in m}
    folds = document["cv_splits" if "pathomic" in path.name else "splits"]
    assert list(folds) == ([1, 2] if "pathomic" in path.name else [0, 1])
    for fold, (train, test) in zip(folds.values(), FOLDS, strict=True):
        for side, who in (("train", train), ("test", test)):
            names = [f"{PATIENTS[p]}-01Z-00-DX1.abc_{k}.png"
                     for p in who for k in (1, 2)]  # fmt: skip
            assert fold[side]["x_path"].tolist() == names
            assert fold[side]["x_omic"].shape == (len(names), 4)
            assert np.abs(fold[side]["x_omic"].mean(axis=0)).max() < 1e-9
    if "pandas15" in path.name:
        assert document["data_pd"][4:] == (
            "TCGA ID", "censored", "Survival months",
            "codeletion", "idh mutation", "EGFR", "7p",
        )  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.stem)
def test_folds_of_a_pickle(path):
    ours = table([*PATIENTS[:4], "TCGA-ZZ-0000"])  # one more, one less
    with pytest.warns(DataWarning) as caught:
        folds = pickle_folds(ours, path)
    output = " ".join(str(w.message) for w in caught)
    assert "2 of 10 regions are in none of its folds and are left out: TCGA" in output
    assert "2 of its names are not in this table: TCGA-AA-0004" in output
    for (train, test), pair in zip(folds, FOLDS, strict=True):
        for found, who in zip((train, test), pair, strict=True):
            rows = [2 * p + k for p in who if p < 4 for k in (0, 1)]
            assert found.tolist() == sorted(rows)


def test_by_patient_where_the_images_are_crops(tmp_path):
    side = {
        "train": {"x_patname": PATIENTS[:3], "x_path": np.zeros((3, 1, 32))},
        "test": {"x_patname": PATIENTS[3:], "x_path": np.zeros((2, 1, 32))},
    }
    path = tmp_path / "s.pkl"
    path.write_bytes(pickle.dumps({"cv_splits": {1: side}, "data_pd": None}))
    ((train, test),) = pickle_folds(table(), path)
    assert (train.tolist(), test.tolist()) == (list(range(6)), [6, 7, 8, 9])
    with pytest.raises(PickleError, match="of another cohort"):
        pickle_folds(columns(), path)


@pytest.mark.parametrize("value", [{}, [1], {"splits": {0: {"train": 3}}}, None])
def test_pickles_that_are_no_splits(tmp_path, value):
    path = tmp_path / "s.pkl"
    path.write_bytes(pickle.dumps(value))
    with pytest.raises(PickleError, match="not a file of splits"):
        pickle_folds(table(), path)


def test_z_scores_are_told_from_raw_markers():
    rng = np.random.default_rng(0)
    raw = np.concatenate(
        [rng.integers(0, 2, (50, 2)), rng.integers(-2, 3, (50, 6)),
         rng.normal(size=(50, 8))], axis=1,
    )  # fmt: skip
    assert zscored_message([raw]) == ""
    z = (raw - raw.mean(axis=0)) / raw.std(axis=0)
    assert "is z-scored: of 16 columns that vary 0 hold integers" in zscored_message(
        [z]
    )
    z[:, 0] = 0  # a constant marker stays whole
    assert "of 15 columns" in zscored_message([z])
    assert zscored_message([None]) == ""


# --- pickles that mean harm -------------------------------------------------------


class Calls:
    """Pickles as a call of a function."""

    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


def text(word: str) -> bytes:
    return b"\x8c" + bytes([len(word)]) + word.encode()


def name(module: str, attribute: str) -> bytes:
    return text(module) + text(attribute) + b"\x93"


def harmful(mark: Path) -> dict[str, bytes]:
    """Each would make `mark`, alter this program, or take it down."""
    command = f"touch {mark}"
    opened = f"__import__('pathlib').Path({str(mark)!r}).touch()"
    inner = pickle.dumps(Calls(os.system, command))
    objects = np.empty(1, object)
    objects[0] = Calls(os.system, command)
    four, end = b"\x80\x04", b"."
    array = name("numpy.core.multiarray", "_reconstruct")
    frame = name("pandas.core.frame", "DataFrame")
    itself: list = []
    itself.append(itself)
    return {
        "os.system": pickle.dumps({"cv_splits": Calls(os.system, command)}),
        "eval": pickle.dumps(Calls(eval, opened), 2),
        "exec": pickle.dumps([Calls(exec, opened)], 0),
        "getattr": pickle.dumps(Calls(getattr, Path(), "unlink")),
        "a pickle in a pickle": pickle.dumps(Calls(pickle.loads, inner)),
        "numpy.load": pickle.dumps(Calls(np.load, str(mark))),
        "in an object array": pickle.dumps(objects),
        "dotted name": four + name("numpy", "core.multiarray.sys.exit") + b")R" + end,
        "numpy testing": four + name("numpy.testing._private.utils", "runstring") + end,
        "pandas read_pickle": four + name("pandas", "read_pickle") + end,
        "pandas eval": four + name("pandas", "eval") + text(opened) + b"\x85R" + end,
        "old INST": f"(S'{command}'\nios\nsystem\n.".encode(),
        "old GLOBAL": f"cposix\nsystem\n(S'{command}'\ntR.".encode(),
        "extension": b"\x80\x02\x82\x01.",
        "outside reference": b"\x80\x02" + b"\x8c\x01xQ" + end,
        # A state that sets an attribute: (None, {"__setstate__": …}).
        "alters a class": four + frame + b"N}" + text("__setstate__") + array
        + b"s\x86b" + end,
        "alters a function": four + array + b"N}" + text("__call__") + array
        + b"s\x86b" + end,
        "alters a function by a dict": four + array + b"}" + text("_call") + array
        + b"sb" + end,
        "calls what is no function": four + text("x") + b")R" + end,
        "shape of a terabyte": four + array + name("numpy", "ndarray") + b"K\x00\x85"
        + b"C\x01b\x87R(K\x01\x8a\x06\x00\x00\x00\x00\x00\x01\x85"
        + name("numpy", "dtype") + text("f8") + b"\x89\x88\x87R\x89C\x00tb" + end,
        "a dtype with fields": four + name("numpy", "dtype") + text("f8,O")
        + b"\x89\x88\x87R" + b"0" + array + b")R(K\x01K\x01\x85"
        + name("numpy", "dtype") + text("f8,O") + b"\x89\x88\x87R\x89C\x00tb" + end,
        "holds itself": pickle.dumps({"splits": itself}),
        "not a pickle": b"PK\x03\x04 something else",
        "cut off": pickle.dumps({"splits": [1, 2, 3]})[:-4],
        "empty": b"",
        "a size of 2^62": b"\x80\x04\x8e" + struct.pack("<Q", 2**62) + b"x.",
    }  # fmt: skip


@pytest.mark.parametrize("kind", list(harmful(Path("x"))))
def test_harmful_pickles_are_refused_and_run_nothing(tmp_path, kind):
    mark, path = tmp_path / "mark", tmp_path / "s.pkl"
    path.write_bytes(harmful(mark)[kind])
    with pytest.raises(PickleError, match=r"nothing in it was run|Nothing in it was"):
        read_pickle(path)
    assert not mark.exists()
    # The next one is read as before: nothing was altered.
    assert list(read_pickle(FILES[0])) == ["data_pd", "cv_splits"]


def test_the_harmful_ones_are_harmful(tmp_path):
    """With Python's own unpickler some of these do what they are made for."""
    mark = tmp_path / "mark"
    for kind in ("os.system", "eval", "in an object array", "old GLOBAL"):
        pickle.loads(harmful(mark)[kind])
        assert mark.exists()
        mark.unlink()


def test_shared_parts_are_read_once(tmp_path):
    laughs: list = ["ha"]
    for _ in range(60):  # 2^60 items, if each were copied
        laughs = [laughs, laughs]
    path = tmp_path / "s.pkl"
    path.write_bytes(pickle.dumps(laughs))
    out = read_pickle(path)
    for _ in range(60):
        assert out[0] is out[1]
        out = out[0]
    assert out == ["ha"]
