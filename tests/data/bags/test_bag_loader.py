"""Batches of bags: padding, the sampling of patches, devices, processes and workers."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from fof_jax.data import loader
from fof_jax.data.bags import padding
from fof_jax.data.cohort import read_cohort
from fof_jax.data.store import build_store, open_store
from fof_jax.training import parallel
from tests.support import bag_files

COUNTS = [3, 20, 7, 40, 16, 1, 5, 9, 30, 24, 17, 60]
ROWS = list(range(12))


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bags")
    # Half precision, which is widened.
    table = bag_files.write_cohort(folder, COUNTS, write=bag_files.write_stamp)
    cohort = read_cohort(table, classes=bag_files.CLASSES, biomarkers=())
    build_store(cohort, directory=folder / "data", name="bags", image_size=20)
    return open_store(folder / "data", "bags")


def draw(store, most=None, **kwargs):
    store = dataclasses.replace(store, max_tokens=most)
    kwargs = {"batch_size": 4, "epochs": 2, "seed": 5, "image_size": 1, **kwargs}
    return list(loader.train_batches(store, kwargs.pop("rows", ROWS), **kwargs))


def patches(batches):
    """(row, epoch) to its valid patches, from all batches."""
    found = {}
    for batch in batches:
        for k in range(len(batch.index)):
            ok = batch.bag.valid[k]
            key = int(batch.index[k]), int(batch.epoch[k])
            found[key] = batch.bag.features[k][ok], batch.bag.coords[k][ok]
    return found


def equal(a, b):
    assert a.keys() == b.keys()
    for key in a:
        for x, y in zip(a[key], b[key], strict=True):
            np.testing.assert_array_equal(x, y)


def test_buckets_by_hand():
    counts = [1, 16, 17, 24, 25, 32, 33, 48, 49, 64, 65, 96, 97, 20_000]
    lengths = [16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96, 96, 128, 24_576]
    assert [padding.bucket(n) for n in counts] == lengths
    # Few shapes: 2 per power of two, and padding is at most a third.
    made = {padding.bucket(n) for n in range(16, 4097)}
    assert len(made) == 17
    assert all(n / padding.bucket(n) > 0.66 for n in range(17, 4097))


def test_a_batch_holds_the_files_and_zeros(store):
    for batch in draw(store):
        assert batch.image is None
        bag = batch.bag
        largest = max(COUNTS[i] for i in batch.index)
        assert bag.valid.shape == (4, padding.bucket(largest))
        assert bag.features.dtype == bag.coords.dtype == np.float32
        for k, i in enumerate(batch.index.tolist()):
            count = COUNTS[i]
            assert bag.valid[k].tolist() == [True] * count + [False] * (
                len(bag.valid[k]) - count
            )
            np.testing.assert_array_equal(
                bag.features[k, :count], bag_files.features(i, count)
            )
            corner = bag_files.grid(count, 1) - (3, 1)
            np.testing.assert_array_equal(bag.coords[k, :count], corner)
            assert not bag.features[k, count:].any()
            assert not bag.coords[k, count:].any()
        np.testing.assert_array_equal(batch.grade, store.grades[batch.index])


def test_training_samples_and_testing_does_not(store):
    batches = draw(store, most=12)
    assert {batch.bag.valid.shape[1] for batch in batches} == {16}
    for (row, _), (values, coords) in patches(batches).items():
        count = COUNTS[row]
        assert len(values) == min(count, 12)
        at = (coords @ (1, 5)).astype(int)  # position in the file
        assert sorted(set(at.tolist())) == at.tolist()  # in order, none twice
        np.testing.assert_array_equal(values, bag_files.features(row, count)[at])
    capped = dataclasses.replace(store, max_tokens=12)
    tested = loader.eval_batches(capped, ROWS, batch_size=5, image_size=1)
    for (row, _), (values, _) in patches(tested).items():
        assert len(values) == COUNTS[row]


def test_samples_depend_on_seed_record_and_epoch_alone(store):
    usual = patches(draw(store, most=12))
    equal(usual, patches(draw(store, most=12)))
    equal(usual, patches(draw(store, most=12, cache="none")))
    equal(usual, patches(draw(store, most=12, batch_size=6)))
    equal(usual, patches(draw(store, most=12, threads=0)))
    resumed = patches(draw(store, most=12, start_step=2))
    equal({key: usual[key] for key in resumed}, resumed)
    other = patches(draw(store, most=12, seed=6))
    big = [row for row in ROWS if COUNTS[row] > 12]
    for row in big:
        first, second = usual[row, 0][0], usual[row, 1][0]
        assert not np.array_equal(first, second)  # anew in each epoch
        assert not np.array_equal(first, other[row, 0][0])


def test_every_patch_is_sampled_equally_often():
    hits = np.zeros(60)
    for epoch in range(300):
        kept = padding.sample(60, 12, (5, 11, epoch))
        assert len(kept) == 12
        hits[kept] += 1
    # Binomial(300, 1/5): 60 ± 6.9; 4 standard deviations.
    assert abs(hits - 60).max() < 28
    assert padding.sample(12, 12, (5, 11, 0)) is None


@pytest.mark.slow  # starts a process that imports JAX
def test_workers_do_not_change_the_data(store):
    usual = patches(draw(store, most=12, epochs=1))
    equal(usual, patches(draw(store, most=12, epochs=1, workers=1, cache="none")))


@pytest.mark.parametrize("most", [None, 12])
def test_processes_have_their_rows_of_batches_of_one_length(store, most):
    whole = draw(store, most=most)
    parts = [draw(store, most=most, process_index=k, process_count=2) for k in (0, 1)]
    for batch, *local in zip(whole, *parts, strict=True):
        joined = jax.tree.map(lambda *a: np.concatenate(a), *local)
        jax.tree.map(np.testing.assert_array_equal, batch, joined)


def test_two_devices_divide_a_batch(store):
    batch = draw(store)[0]
    cut = parallel.to_devices(batch, 2)
    assert cut.bag.features.shape[:2] == (2, 2)
    np.testing.assert_array_equal(np.concatenate(cut.bag.valid), batch.bag.valid)


def test_the_last_test_batch_is_padded_with_its_last_row(store):
    batches = list(loader.eval_batches(store, ROWS, batch_size=5, image_size=1))
    assert [batch.valid.sum() for batch in batches] == [5, 5, 2]
    order = np.concatenate([batch.index for batch in batches])
    assert order.tolist() == [*ROWS, 11, 11, 11]


def test_a_cache_of_another_store_is_refused(store):
    other = dataclasses.replace(store, max_tokens=3)
    with pytest.raises(ValueError, match="The cache holds bags of"):
        draw(store, cache=loader.open_cache(other, 1))


def test_ram_is_checked(store, monkeypatch):
    values = sum(COUNTS) * 6 * np.dtype(store.bags.entries[0].header.dtype).itemsize
    assert store.bags.nbytes == values + sum(COUNTS) * 8
    monkeypatch.setattr("fof_jax.data.cache.available_memory", lambda: 1000)
    with pytest.raises(ValueError, match=r"12 bags of patch features; .*cache=none"):
        loader.open_cache(store, 1)
    loader.open_cache(store, 1, "none")


def test_ram_reads_each_file_once(store, monkeypatch):
    cache = loader.open_cache(store, 1)
    reads = []
    original = type(store.bags).read
    monkeypatch.setattr(
        type(store.bags), "read", lambda self, i: reads.append(i) or original(self, i)
    )
    shared = dict(batch_size=4, image_size=1, cache=cache, threads=0)
    for _ in range(2):
        for batch in itertools.islice(loader.eval_batches(store, ROWS, **shared), 2):
            assert batch.bag.valid.any(axis=1).all()
    assert sorted(reads) == ROWS[:8]
