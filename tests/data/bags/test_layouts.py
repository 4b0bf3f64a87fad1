"""Files of three tools read alike; what is no bag is refused by name and row."""

import h5py
import numpy as np
import pytest

from fof_jax.data.bags import index, reading
from fof_jax.data.bags.layouts import BagError
from fof_jax.data.cohort import CohortError, read_cohort
from tests.support import bag_files


@pytest.mark.parametrize("layout", bag_files.WRITERS)
def test_the_layouts_read_alike(tmp_path, layout):
    values = bag_files.features(0, 12)
    path = bag_files.WRITERS[layout](tmp_path / "a.h5", values)
    header = reading.check(path)
    assert (header.layout, header.count, header.width) == (layout, 12, 6)
    assert header.patch_size == (256 if layout == "stamp" else 512)
    assert header.unit == ("um" if layout == "stamp" else "px")
    bag = reading.read(path, header)
    np.testing.assert_array_equal(bag.features.astype(np.float32), values)
    # In units of a patch, from the smallest: whole numbers of the grid.
    expected = [(i % 5, i // 5) for i in range(12)]
    np.testing.assert_array_equal(bag.coords, expected)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_precisions(tmp_path, dtype):
    values = bag_files.features(0, 3)
    path = bag_files.write_trident(tmp_path / "a.h5", values, dtype=dtype)
    bag = reading.read(path, reading.check(path))
    assert bag.features.dtype == (np.float16 if dtype == "float16" else np.float32)
    np.testing.assert_array_equal(bag.features, values)


def test_features_as_clam_writes_them_need_the_patch_size(tmp_path):
    path = tmp_path / "a.h5"
    bag_files.write_clam(path, bag_files.features(0, 4), attributes=False)
    with pytest.raises(BagError, match=r"a.h5 states no patch size.*patch_size="):
        reading.check(path)
    header = reading.check(path, patch_size=512.0)
    assert header.patch_size == 512
    assert reading.read(path, header).coords.tolist() == [[i, 0] for i in range(4)]


def test_a_stated_patch_size_is_not_overridden(tmp_path):
    path = bag_files.write_trident(tmp_path / "a.h5", bag_files.features(0, 4))
    assert reading.check(path, patch_size=100.0).patch_size == 512


@pytest.mark.parametrize(
    ("attributes", "expected"),
    [
        ({"patch_size": 256, "patch_level": 0}, 256),
        ({"patch_size": 256, "patch_level": 1, "downsample": 4.0}, 1024),
        ({"patch_size": 256, "patch_level": 0, "custom_downsample": 2}, 512),
        ({"patch_size": 256, "patch_level": 1}, None),  # of which downsample?
        ({"patch_size_level0": 300.0, "patch_size": 256}, 300),
    ],
)
def test_patch_sizes_of_pixel_coordinates(tmp_path, attributes, expected):
    path = tmp_path / "a.h5"
    bag_files.write_clam(path, bag_files.features(0, 2), attributes=False)
    with h5py.File(path, "a") as file:
        file["coords"].attrs.update(attributes)
    if expected is None:
        with pytest.raises(BagError, match="no patch size"):
            reading.check(path)
    else:
        assert reading.check(path).patch_size == expected


def edited(edit):
    """A valid file after `edit(file)`."""

    def write(path):
        bag_files.write_trident(path, bag_files.features(0, 8))
        with h5py.File(path, "a") as file:
            edit(file)

    return write


def replaced(key, values):
    def edit(file):
        attributes = dict(file[key].attrs)
        del file[key]
        file[key] = values
        file[key].attrs.update(attributes)

    return edited(edit)


def put(key, at, value):
    def edit(file):
        file[key][at] = value

    return edited(edit)


def truncated(path):
    bag_files.write_trident(path, bag_files.features(0, 400))
    path.write_bytes(path.read_bytes()[:-2000])


def linked(path):
    other = path.with_name("other.hdf5")
    bag_files.write_trident(other, bag_files.features(0, 8))
    replaced("coords", bag_files.grid(8, 512))(path)
    with h5py.File(path, "a") as file:
        del file["features"]
        file["features"] = h5py.ExternalLink(other.name, "features")


FAULTS = {
    "text": (lambda path: path.write_text("no"), "damaged file"),
    "nothing": (lambda path: path.write_bytes(b""), "damaged file"),
    "truncated": (truncated, "damaged file"),
    "missing": (lambda path: None, "missing file"),
    "no features": (edited(lambda f: f.pop("features")), "unknown layout"),
    "no coords": (edited(lambda f: f.pop("coords")), "unknown layout"),
    "two layouts": (edited(lambda f: f.create_dataset("feats", (8, 6), "f4")),
                    "unknown layout"),
    "group": (replaced("coords", np.zeros((8, 3))), "coordinates of another form"),
    "empty": (replaced("features", np.zeros((0, 6), np.float32)), "empty bag"),
    "slide embedding": (replaced("features", np.zeros(6, np.float32)),
                        "features of another form"),
    "integers": (replaced("features", np.zeros((8, 6), np.int32)),
                 "features of another form"),
    "fewer coords": (replaced("coords", bag_files.grid(7, 512)),
                     "coordinates of another form"),
    "NaN": (put("features", (5, 2), np.nan), "features that are not finite"),
    "infinite": (put("features", (5, 2), np.inf), "features that are not finite"),
    "beyond float32": (replaced("features", np.full((8, 6), 1e300)),
                       "features that are not finite"),
    "NaN coordinate": (replaced("coords", np.full((8, 2), np.nan)),
                       "coordinates that are not finite"),
    "twice": (put("coords", 3, (1536, 512)), "two patches at one place"),
    "no patch size": (edited(lambda f: f["coords"].attrs.clear()), "no patch size"),
    "patch of 0": (edited(lambda f: f["coords"].attrs.update(patch_size_level0=0)),
                   "no patch size"),
    "mask of 7": (edited(lambda f: f.create_dataset("mask", data=np.ones(7, bool))),
                  "mask of another form"),
    "mask of 2": (edited(lambda f: f.create_dataset("mask", data=np.full(8, 2))),
                  "mask of another form"),
    "linked": (linked, "values in another file"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_refused_by_name(tmp_path, fault):
    write, kind = FAULTS[fault]
    write(tmp_path / "bad.h5")
    with pytest.raises(BagError, match="bad.h5") as caught:
        index.check(tmp_path / "bad.h5")
    assert caught.value.kind == kind


def test_faults_are_listed_by_row(tmp_path):
    table = bag_files.write_cohort(tmp_path, [4, 5, 6, 7, 8])
    FAULTS["NaN"][0](tmp_path / "slide_001.h5")
    (tmp_path / "slide_003.h5").unlink()
    bag_files.write_trident(tmp_path / "slide_004.h5", bag_files.features(0, 3, 9))
    with pytest.raises(CohortError) as caught:
        read_cohort(table, classes=bag_files.CLASSES, biomarkers=())
    found = {(error.kind, error.row) for error in caught.value.errors}
    assert found == {
        ("features that are not finite", 3),
        ("missing file", 5),
        ("features of another length", 6),
    }
    assert "slide_004.h5 has D 9, 2 of 3 files have 6" in str(caught.value)


def test_images_and_masks_have_no_place_among_bags(tmp_path):
    bag_files.write_cohort(tmp_path, [4, 4])
    table = bag_files.write_table(tmp_path, [
        {"image": "slide_000.h5", "patient": "a", "grade": "0", "mask": "m.png"},
        {"image": "slide.png", "patient": "b", "grade": "0", "mask": ""},
        {"image": "slide_000.h5", "patient": "c", "grade": "0", "mask": ""},
    ])  # fmt: skip
    with pytest.raises(CohortError) as caught:
        read_cohort(table, classes=bag_files.CLASSES, biomarkers=())
    found = {(error.kind, error.row) for error in caught.value.errors}
    assert found == {
        ("mask beside a bag", 2),
        ("images among bags", 3),
        ("same image twice", 4),
    }


def test_without_h5py_the_error_names_the_extra(tmp_path, monkeypatch):
    table = bag_files.write_cohort(tmp_path, [4])
    monkeypatch.setitem(__import__("sys").modules, "h5py", None)
    with pytest.raises(ValueError, match=r"fof-jax\[bags\]"):
        read_cohort(table, classes=bag_files.CLASSES, biomarkers=())
