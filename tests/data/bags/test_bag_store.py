"""The store of bags is an index; a file that has changed since is refused by name."""

import json
import os
import pickle

import h5py
import numpy as np
import pytest

from fof_jax.data.cohort import read_cohort
from fof_jax.data.prepare import prepare
from fof_jax.data.store import build_store, open_store
from tests.support import bag_files
from tests.support.data_verb import call, config_for

COUNTS = [3, 20, 7, 40, 16, 1, 5, 9]


@pytest.fixture
def table(tmp_path):
    return bag_files.write_cohort(tmp_path, COUNTS)


def config_of(tmp_path, **data):
    fields = {"name": "bags", "classes": bag_files.CLASSES, "biomarkers": ()}
    return config_for(tmp_path, **fields, **data)


@pytest.fixture
def store(table, tmp_path):
    cohort = read_cohort(table, classes=bag_files.CLASSES, biomarkers=())
    build_store(cohort, directory=tmp_path / "data", name="bags", image_size=20)
    return open_store(tmp_path / "data", "bags")


def test_the_store_is_an_index_without_a_copy(store, tmp_path):
    bags = store.bags
    assert bags.counts.tolist() == COUNTS
    assert bags.width == bag_files.WIDTH
    assert store.patients[:3] == ("P000", "P000", "P001")
    assert store.grades.tolist() == [0, 0, 1, 1, 2, 2, 0, 0]
    for i, count in enumerate(COUNTS):
        np.testing.assert_array_equal(
            bags.read(i).features, bag_files.features(i, count)
        )
        entry = bags.entries[i]
        assert entry.path == tmp_path / f"slide_{i:03d}.h5"
        assert entry.size == entry.path.stat().st_size
        assert (entry.header.count, entry.header.patch_size) == (count, 512)
    assert sorted(path.name for path in store.folder.iterdir()) == ["columns.json"]


def test_an_image_of_a_bag_is_refused(store):
    with pytest.raises(ValueError, match="holds patch features of 8 bags"):
        store.encoded(0)


def change(path):
    """Another value in the file, of the same size."""
    with h5py.File(path, "a") as file:
        file["features"][0, 0] += 1


@pytest.mark.parametrize("again", [False, True])
def test_a_changed_file_is_refused_by_name(store, tmp_path, again):
    if again:
        store.bags.read(2)
    change(tmp_path / "slide_002.h5")
    store.bags.read(1)
    with pytest.raises(ValueError, match=r"slide_002.h5 has changed since the store"):
        store.bags.read(2)
    with pytest.raises(ValueError, match="slide_002"):
        store.bags.require_all_unchanged()


def test_a_touched_file_is_accepted_and_a_missing_one_is_not(store, tmp_path):
    path = tmp_path / "slide_002.h5"
    os.utime(path, (1, 1))
    store.bags.read(2)
    assert pickle.loads(pickle.dumps(store.bags)).read(2).features.shape == (7, 6)
    path.unlink()
    with pytest.raises(ValueError, match="slide_002.h5 does not exist"):
        store.bags.read(2)


def test_the_verb_builds_checks_and_splits(table, tmp_path):
    config = config_of(tmp_path)
    for action in ("check", "build"):
        out = call(action, config)
        assert "8 bags of 4 patients: 0 4, 1 2, 2 2" in out
        assert "1 to 40 in a bag, median 8; 6 features; layout trident" in out
    call("split", config)
    split = json.loads((tmp_path / "data/bags/splits.json").read_text())
    assert len(split["folds"]) == 3
    change(tmp_path / "slide_004.h5")
    with pytest.raises(ValueError, match="slide_004.h5 has changed"):
        prepare(config)
    before = open_store(tmp_path / "data", "bags").folder
    call("build", config)
    assert open_store(tmp_path / "data", "bags").folder != before
    assert prepare(config).bags.counts.tolist() == COUNTS


def test_the_patch_size_is_part_of_the_build(tmp_path):
    def write(path, values):
        bag_files.write_clam(path, values, attributes=False)

    bag_files.write_cohort(tmp_path, COUNTS, write=write)
    folders = []
    for side in (256.0, 512.0):
        config = config_of(tmp_path, patch_size=side)
        call("build", config)
        store = prepare(config)
        folders.append(store.folder)
        assert store.bags.read(0).coords[1].tolist() == [512 / side, 0]
    assert len(set(folders)) == 2


def test_masks_of_patches(tmp_path):
    table = bag_files.write_cohort(tmp_path, [4, 5])
    with h5py.File(tmp_path / "slide_001.h5", "a") as file:
        file["mask"] = np.array([0, 1, 0, 0, 1], np.uint8)
    cohort = read_cohort(table, classes=bag_files.CLASSES, biomarkers=())
    build_store(cohort, directory=tmp_path / "data", name="bags", image_size=20)
    store = open_store(tmp_path / "data", "bags")
    assert store.has_mask.tolist() == [False, True]
    assert store.bags.read_mask(0) is None
    assert store.bags.read_mask(1).tolist() == [False, True, False, False, True]
