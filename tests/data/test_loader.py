"""Batches: the step alone fixes them, whatever threads, workers and processes do."""

import dataclasses
import threading
import time

import numpy as np
import pytest
from PIL import Image

from fof_jax.data import cache as data_cache
from fof_jax.data import loader
from fof_jax.data.cohort import Cohort, Row, read_cohort
from fof_jax.data.loader import (
    eval_batches,
    open_cache,
    steps_per_epoch,
    train_batches,
)
from fof_jax.data.read_options import ReadOptions
from fof_jax.data.sampling import class_weights
from fof_jax.data.store import build_store, open_store
from tests.support.cohort_files import BIOMARKERS, CLASSES, pixels, write_cohort_files

ROWS = [i for i in range(24) if i % 7]  # 20 of 24


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("loader")
    table = write_cohort_files(folder, 24)
    cohort = read_cohort(table, classes=CLASSES, biomarkers=BIOMARKERS)
    build_store(cohort, directory=folder / "data", name="cohort", image_size=20)
    return open_store(folder / "data", "cohort")


def draw(store, **kwargs):
    kwargs = {"batch_size": 6, "epochs": 3, "seed": 5, "image_size": 20, **kwargs}
    return list(train_batches(store, kwargs.pop("rows", ROWS), **kwargs))


def same(a, b):
    assert len(a) == len(b)
    for x, y in zip(a, b, strict=True):
        for field in ("image", "grade", "biomarkers", "known", "index", "epoch"):
            np.testing.assert_array_equal(getattr(x, field), getattr(y, field))


def test_a_batch_holds_what_the_store_holds(store):
    batches = draw(store)
    assert len(batches) == 3 * steps_per_epoch(20, 6) == 9
    for batch in batches:
        assert batch.image.dtype == np.uint8
        assert batch.valid.all()
        np.testing.assert_array_equal(batch.grade, store.grades[batch.index])
        np.testing.assert_array_equal(
            batch.biomarkers, store.biomarker_values[batch.index]
        )
        np.testing.assert_array_equal(batch.known, store.known[batch.index])
        assert batch.floats.shape == (6, 0)
        for image, i in zip(batch.image, batch.index, strict=True):
            np.testing.assert_array_equal(image, pixels(int(i)))


def test_epochs(store):
    batches = draw(store)
    epochs = [np.concatenate([b.index for b in batches[3 * e : 3 * e + 3]])
              for e in range(3)]  # fmt: skip
    for e, sampled in enumerate(epochs):
        assert len(set(sampled.tolist())) == 18  # none twice
        assert set(sampled.tolist()) <= set(ROWS)
        assert all((b.epoch == e).all() for b in batches[3 * e : 3 * e + 3])
    assert len({tuple(sampled) for sampled in epochs}) == 3  # shuffled anew
    # What is left over differs by epoch: over many epochs all rows are sampled.
    many = draw(store, epochs=12)
    assert set(np.concatenate([b.index for b in many]).tolist()) == set(ROWS)


def test_seeds(store):
    order = [np.concatenate([b.index for b in draw(store, seed=s)]) for s in (5, 5, 6)]
    np.testing.assert_array_equal(order[0], order[1])
    # Grain's own seeds would make epoch 1 of seed 5 equal epoch 0 of seed 6.
    assert not np.array_equal(order[0][18:36], order[2][:18])
    assert not np.array_equal(order[0], order[2])


@pytest.mark.parametrize("start", [0, 1, 4, 8, 9])
@pytest.mark.parametrize(("cache", "threads"), [("ram", 2), ("none", 0), ("none", 3)])
def test_starting_late_gives_the_same_batches(store, start, cache, threads):
    late = draw(store, start_step=start, cache=cache, threads=threads)
    same(draw(store)[start:], late)


@pytest.mark.parametrize("count", [2, 3, 6])
def test_processes_share_each_step(store, count):
    whole = draw(store)
    parts = [
        draw(store, process_index=p, process_count=count, start_step=2)
        for p in range(count)
    ]
    for step, batch in enumerate(whole[2:]):
        indices = [part[step].index.tolist() for part in parts]
        assert [len(i) for i in indices] == [6 // count] * count
        assert sum(indices, []) == batch.index.tolist()  # in order too


@pytest.mark.slow  # a worker is a process that imports everything: 5 s
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_worker_processes_change_nothing(store):
    same(draw(store), draw(store, workers=2, cache="none"))
    same(draw(store)[5:], draw(store, workers=2, cache="none", start_step=5))


def test_a_cache_is_shared_and_decodes_once(store, monkeypatch):
    calls = []
    native = type(store).native
    monkeypatch.setattr(
        type(store), "native", lambda s, i: calls.append(i) or native(s, i)
    )
    shared = open_cache(store, 20, "ram")
    assert calls == []
    first = draw(store, cache=shared, threads=0)
    again = draw(store, cache=shared, threads=0)
    list(eval_batches(store, ROWS, batch_size=4, image_size=20, cache=shared))
    same(first, again)
    assert sorted(calls) == ROWS
    with pytest.raises(ValueError, match="holds .* at 20; .* at 10"):
        draw(store, cache=shared, image_size=10)


def test_with_a_cache_no_worker_starts(store, monkeypatch):
    def refuse(**kwargs):
        raise AssertionError("a worker was asked for")

    monkeypatch.setattr(loader.grain, "MultiprocessingOptions", refuse)
    same(draw(store), draw(store, workers=2, cache="ram"))


def test_a_cache_that_does_not_fit_is_refused(store, monkeypatch):
    needed = 24 * 20 * 20 * 3
    monkeypatch.setattr(data_cache, "available_memory", lambda: 2 * needed)
    open_cache(store, 20, "ram")
    monkeypatch.setattr(data_cache, "available_memory", lambda: 2 * needed - 2)
    with pytest.raises(ValueError, match=r"24 images of 20x20.*data.cache=none"):
        open_cache(store, 20, "ram")
    open_cache(store, 20, "none")
    with pytest.raises(ValueError, match="expected one of ram, none"):
        open_cache(store, 20, "disk")


def test_available_memory_is_plausible():
    assert 2**26 < data_cache.available_memory() < 2**50


@pytest.mark.parametrize("threads", [0, 2])
def test_evaluation_in_order_padded(store, threads):
    batches = list(
        eval_batches(
            store, ROWS, batch_size=6, image_size=20, cache="none", threads=threads
        )
    )
    assert [b.image.shape for b in batches] == [(6, 20, 20, 3)] * 4
    valid = np.concatenate([b.valid for b in batches])
    index = np.concatenate([b.index for b in batches])
    assert valid.tolist() == [True] * 20 + [False] * 4
    assert index[valid].tolist() == ROWS
    assert index[~valid].tolist() == [ROWS[-1]] * 4
    np.testing.assert_array_equal(batches[1].image[2], pixels(ROWS[8]))
    parts = [
        list(
            eval_batches(
                store,
                ROWS,
                batch_size=6,
                image_size=20,
                process_index=p,
                process_count=2,
            )  # fmt: skip
        )
        for p in range(2)
    ]
    seen = [b.index[b.valid] for part in parts for b in part]
    assert sorted(np.concatenate(seen).tolist()) == ROWS


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 21}, "20 rows do not fill one batch of 21"),
        ({"process_count": 4}, "batch_size=6 does not divide among 4"),
        ({"process_count": 2, "process_index": 2}, "process_index=2 of 2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"start_step": 10}, "3 epochs have 9 steps"),
        ({"start_step": -1}, "start_step=-1"),
        ({"epochs": 0}, "epochs=0"),
        ({"seed": -1}, "seed=-1"),
        ({"rows": [0, 24]}, "positions 0 … 23"),
    ],
)
def test_bad_arguments_are_refused_at_once(store, kwargs, message):
    given = {"batch_size": 6, "epochs": 3, "seed": 5, "image_size": 20, "rows": ROWS}
    given |= kwargs
    rows = given.pop("rows")
    with pytest.raises(ValueError, match=message):
        train_batches(store, rows, **given)  # before the first batch is asked for


def test_nothing_to_evaluate(store):
    with pytest.raises(ValueError, match="no rows"):
        eval_batches(store, [], batch_size=2, image_size=20)


# --- cuts and balance -------------------------------------------------------------


@pytest.fixture(scope="module")
def uneven(tmp_path_factory):
    """A store of images of other sizes than they are read at, classes 2 : 6 : 16."""
    folder = tmp_path_factory.mktemp("uneven")
    rows = []
    for i in range(24):
        Image.fromarray(pixels(i, 24 + i % 3, 30)).save(folder / f"{i}.png")
        grade = 0 if i < 2 else 1 if i < 8 else 2
        rows.append(Row(folder / f"{i}.png", f"P{i}", grade))
    cohort = Cohort(tuple(rows), CLASSES, root=folder)
    build_store(cohort, directory=folder / "data", name="cohort", image_size=20,
                views=("crop", "crop"))  # fmt: skip
    return open_store(folder / "data", "cohort")


def with_options(store, **kwargs):
    return dataclasses.replace(store, options=ReadOptions(**kwargs))


def cut_of(image, whole):
    """Where a square lies in an image, by looking for it."""
    places = [
        (r, c)
        for r in range(whole.shape[0] - 19)
        for c in range(whole.shape[1] - 19)
        if (whole[r : r + 20, c : c + 20] == image).all()
    ]
    assert len(places) == 1
    return places[0]


@pytest.mark.parametrize("cache", ["ram", "none"])
def test_training_cuts_anywhere_and_testing_in_the_center(uneven, cache):
    cut = with_options(uneven, train_view="crop", test_view="crop")
    rows, places = list(range(24)), {}
    for batch in draw(cut, rows=rows, epochs=4, cache=cache):
        for image, i, epoch in zip(batch.image, batch.index, batch.epoch, strict=True):
            place = cut_of(image, pixels(int(i), 24 + int(i) % 3, 30))
            places[int(i), int(epoch)] = place
    assert len(places) == 96
    assert {r for r, _ in places.values()} == set(range(7))
    assert {c for _, c in places.values()} == set(range(11))
    moved = [len({places[i, e] for e in range(4)}) > 1 for i in rows]
    assert sum(moved) > 20  # elsewhere in every epoch
    (batch,) = eval_batches(cut, rows, batch_size=24, image_size=20, cache=cache)
    for image, i in zip(batch.image, rows, strict=True):
        whole = pixels(i, 24 + i % 3, 30)
        assert cut_of(image, whole) == (round((4 + i % 3) / 2), 5)
        np.testing.assert_array_equal(cut.read(i, 20), image)


def test_each_view_is_a_field_of_its_own(uneven):
    rows = list(range(24))
    squeezed = [
        np.asarray(Image.fromarray(pixels(i, 24 + i % 3, 30)).resize(
            (20, 20), Image.Resampling.BICUBIC))
        for i in rows
    ]  # fmt: skip
    one = with_options(uneven, train_view="crop")
    (batch,) = eval_batches(one, rows, batch_size=24, image_size=20)
    np.testing.assert_array_equal(batch.image, squeezed)
    first = draw(one, rows=rows)[0]
    i = int(first.index[0])
    assert cut_of(first.image[0], pixels(i, 24 + i % 3, 30))
    other = with_options(uneven, test_view="crop")
    for batch in draw(other, rows=rows, epochs=1):
        np.testing.assert_array_equal(batch.image, [squeezed[i] for i in batch.index])
    with pytest.raises(ValueError, match="data.test_view='zoom': expected one of res"):
        with_options(uneven, test_view="zoom")


def test_cuts_do_not_depend_on_threads_or_processes(uneven):
    cut = with_options(uneven, train_view="crop")
    rows = list(range(24))
    options = {"rows": rows, "balanced": True}
    whole = draw(cut, **options)
    same(whole, draw(cut, **options, cache="none", threads=0))
    same(whole[5:], draw(cut, **options, start_step=5))
    parts = [draw(cut, **options, process_index=p, process_count=2) for p in range(2)]
    for step, batch in enumerate(whole):
        got = {
            (int(i), int(e)): image
            for part in parts
            for image, i, e in zip(
                part[step].image, part[step].index, part[step].epoch, strict=True
            )
        }
        for image, i, e in zip(batch.image, batch.index, batch.epoch, strict=True):
            np.testing.assert_array_equal(got[int(i), int(e)], image)  # fmt: skip


@pytest.mark.slow  # a worker is a process that imports everything: 5 s
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_cuts_and_balance_do_not_depend_on_workers(uneven):
    cut = with_options(uneven, train_view="crop")
    options = {"rows": list(range(24)), "balanced": True}
    same(draw(cut, **options), draw(cut, **options, workers=2, cache="none"))


def test_a_cache_of_whole_images_is_counted_at_their_size(uneven, monkeypatch):
    needed = sum((24 + i % 3) * 30 * 3 for i in range(24))
    monkeypatch.setattr(data_cache, "available_memory", lambda: 2 * needed - 2)
    open_cache(uneven, 20)
    with pytest.raises(ValueError, match="of their stored size"):
        open_cache(with_options(uneven, train_view="crop"), 20)


def test_balanced_draws_classes_equally_often(uneven):
    rows = list(range(24))
    plain = np.concatenate([b.grade for b in draw(uneven, rows=rows)])
    assert np.bincount(plain).tolist() == [6, 18, 48]
    batches = draw(uneven, rows=rows, epochs=6, balanced=True)
    assert len(batches) == 6 * steps_per_epoch(24, 6)
    for epoch in range(6):
        sampled = np.concatenate([b.index for b in batches[4 * epoch : 4 * epoch + 4]])
        assert all((b.epoch == epoch).all() for b in batches[4 * epoch : 4 * epoch + 4])
        times = np.bincount(sampled, minlength=24)
        assert [times[:2].sum(), times[2:8].sum(), times[8:].sum()] == [8, 8, 8]
        assert times[:2].tolist() == [4, 4]
        assert set(times[2:8].tolist()) == {1, 2}
        assert times[8:].max() == 1
    every = np.concatenate([b.index for b in batches])
    assert set(every.tolist()) == set(rows)


def test_class_weights_even_the_classes_out():
    grades = np.array([0] * 2 + [1] * 6 + [3] * 16)
    weights = class_weights(grades, 4)
    np.testing.assert_allclose(weights, [24 / 6, 24 / 18, 0, 24 / 48], rtol=1e-6)
    assert weights[grades].mean() == pytest.approx(1)
    with pytest.raises(ValueError, match="0 grades"):
        class_weights(np.zeros(0, int), 3)
    with pytest.raises(ValueError, match="grades up to 3 for 3 classes"):
        class_weights(grades, 3)


def test_an_abandoned_iterator_stops(store):
    before = threading.active_count()
    batches = train_batches(
        store, ROWS, batch_size=6, epochs=1000, seed=0, image_size=20
    )
    next(batches)
    batches.close()
    end = time.monotonic() + 10  # Grain's pool winds down by itself
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.01)
    assert threading.active_count() <= before
