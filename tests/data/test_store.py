"""The store keeps what the files say: bytes, pixels, columns; and builds whole."""

import io
import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import textwrap
import time

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from fof_jax.data import store_writer
from fof_jax.data.cohort import Cohort, Row, read_cohort
from fof_jax.data.errors import DataWarning, MissingDataError
from fof_jax.data.metadata import from_cohort
from fof_jax.data.store import build_store, open_store
from tests.support.cohort_files import (
    BIOMARKERS,
    CLASSES,
    SHARED,
    pixels,
    write_cohort_files,
)


@pytest.fixture
def cohort(tmp_path):
    table = write_cohort_files(tmp_path, 10)
    return read_cohort(table, classes=CLASSES, biomarkers=BIOMARKERS)


def build(cohort, tmp_path, **kwargs):
    kwargs = {"image_size": 20, **kwargs}
    build_store(cohort, directory=tmp_path / "data", name="cohort", **kwargs)
    return open_store(tmp_path / "data", "cohort")


def single(tmp_path, path, **kwargs):
    """A store of one image."""
    row = Row(path, "P", 0, **kwargs)
    return Cohort((row,), ("a",), root=tmp_path)


def test_columns_and_images_are_those_of_the_files(cohort, tmp_path):
    store = build(cohort, tmp_path)
    assert len(store) == 10
    assert store.images == tuple(f"img/{i:03d}.png" for i in range(10))
    assert store.patients == tuple(f"P{i // 2:03d}" for i in range(10))
    assert store.grades.tolist() == [0, 0, 1, 1, 2, 2, 0, 0, 1, 1]
    assert store.known.tolist() == [[True, True]] * 8 + [[False, True]] * 2
    assert store.biomarker_values[:, 1].tolist() == [-1, -1, 0, 0, 1, 1, 2, 2, -1, -1]
    assert store.floats.shape == (10, 0)
    assert store.folds is None
    assert store.classes == CLASSES
    assert store.biomarkers == BIOMARKERS
    assert store.table_hash == from_cohort(cohort).table_hash
    for i, row in enumerate(cohort.rows):
        assert store.encoded(i) == row.image.read_bytes()
        np.testing.assert_array_equal(store.read(i, 20), pixels(i))
        assert store.read_mask(i, 20) is None


def test_shards_keep_the_order(cohort, tmp_path, monkeypatch):
    sizes = [row.image.stat().st_size for row in cohort.rows]
    monkeypatch.setattr(store_writer, "_SHARD", 3 * max(sizes))
    store = build(cohort, tmp_path)
    files = sorted(store.folder.rglob("*.array_record*"))
    assert len(files) > 2
    assert all(f"-of-{len(files):05d}" in file.name for file in files)
    for i in (9, 0, 4, 5, 3):
        assert store.encoded(i) == cohort.rows[i].image.read_bytes()
    assert len(store) == 10


def test_a_store_is_a_dataset_of_tfds(cohort, tmp_path):
    folder = build(cohort, tmp_path).folder / "regions/1.0.0"
    source = tfds.builder_from_directory(folder).as_data_source(split="train")
    assert len(source) == 10
    assert source[3]["patient"] == b"P001"
    assert source[3]["biomarkers"].tolist() == [1, 0]


def test_no_tensorflow(cohort, tmp_path):
    build(cohort, tmp_path).read(0, 20)
    assert "tensorflow" not in sys.modules


def test_jpeg_is_kept_verbatim(tmp_path):
    Image.fromarray(pixels(0)).save(tmp_path / "a.jpg", quality=80)
    store = build(single(tmp_path, tmp_path / "a.jpg"), tmp_path)
    assert store.encoded(0) == (tmp_path / "a.jpg").read_bytes()


def test_gray_rgba_and_tiff_become_rgb_png_without_loss(tmp_path):
    rgb = pixels(0)
    alpha = np.dstack([rgb, np.full((20, 20), 255, np.uint8)])
    alpha[3:6, 4:9, 3] = 0  # transparent: white shows
    under = rgb.copy()
    under[3:6, 4:9] = 255
    Image.fromarray(rgb).save(tmp_path / "a.tif")
    Image.fromarray(rgb[..., 0]).save(tmp_path / "b.png")
    Image.fromarray(alpha).save(tmp_path / "c.png")
    wanted = [rgb, np.repeat(rgb[..., :1], 3, axis=2), under]
    rows = tuple(Row(tmp_path / f, "P", 0) for f in ("a.tif", "b.png", "c.png"))
    store = build(Cohort(rows, ("a",), root=tmp_path), tmp_path)
    for i, image in enumerate(wanted):
        with Image.open(io.BytesIO(store.encoded(i))) as opened:
            assert (opened.format, opened.mode) == ("PNG", "RGB")
        np.testing.assert_array_equal(store.read(i, 20), image)


def test_small_images(tmp_path):
    image = pixels(0, 10, 10)
    Image.fromarray(image).save(tmp_path / "a.png")
    cohort = single(tmp_path, tmp_path / "a.png")
    with pytest.warns(DataWarning, match=r"1 of 1 .* a.png \(10x10\).*enlarged"):
        store = build(cohort, tmp_path)
    enlarged = Image.fromarray(image).resize((20, 20), Image.Resampling.BICUBIC)
    np.testing.assert_array_equal(store.read(0, 20), np.asarray(enlarged))
    np.testing.assert_array_equal(store.read(0, 10), image)
    with pytest.warns(DataWarning, match="padded with white"):
        store = build(cohort, tmp_path, small="pad")
    padded = np.full((20, 20, 3), 255, np.uint8)
    padded[5:15, 5:15] = image
    np.testing.assert_array_equal(store.read(0, 20), padded)
    before = (store.folder / "columns.json").read_bytes()
    with pytest.raises(ValueError, match=r"a.png \(10x10\).*lower"):
        build(cohort, tmp_path, small="error")
    assert (store.folder / "columns.json").read_bytes() == before
    store = build(cohort, tmp_path, small="error", image_size=10)
    with pytest.raises(ValueError, match="a.png is 10x10, smaller than image_size=20"):
        store.read(0, 20)
    with pytest.raises(ValueError, match="expected one of resize, pad, error"):
        build(cohort, tmp_path, small="crop")


def test_larger_and_oblong_images(tmp_path):
    blocks = np.kron(pixels(0, 4, 6), np.ones((10, 10, 1), np.uint8))  # 40 x 60
    Image.fromarray(blocks).save(tmp_path / "a.png")
    with pytest.warns(DataWarning, match=r"not square: a.png \(60x40\)"):
        store = build(single(tmp_path, tmp_path / "a.png"), tmp_path)
    read = store.read(0, 20)
    assert read.shape == (20, 20, 3)
    # Bicubic keeps the mean of a large area: within 3 gray levels.
    np.testing.assert_allclose(read.mean(axis=(0, 1)), blocks.mean(axis=(0, 1)), atol=3)


def test_masks_follow_the_image(tmp_path):
    inside = np.zeros((20, 20), np.uint8)
    inside[4:12, 6:20] = 1  # not 0 is a structure, whatever the value
    Image.fromarray(inside).save(tmp_path / "m.png")
    Image.fromarray(pixels(0)).save(tmp_path / "a.png")
    cohort = single(tmp_path, tmp_path / "a.png", mask=tmp_path / "m.png")
    store = build(cohort, tmp_path)
    np.testing.assert_array_equal(store.read_mask(0, 20), inside == 1)
    halved = (inside == 1)[::2, ::2]  # its edges are even
    np.testing.assert_array_equal(store.read_mask(0, 10), halved)
    with pytest.warns(DataWarning):
        store = build(cohort, tmp_path, small="pad", image_size=30)
    np.testing.assert_array_equal(store.read_mask(0, 30), np.pad(inside == 1, 5))


def test_floats_and_folds_survive(tmp_path):
    rows = []
    for i in range(3):
        Image.fromarray(pixels(i)).save(tmp_path / f"{i}.png")
        floats = (None if i == 1 else 0.1 * i, -1.5)
        rows.append(Row(tmp_path / f"{i}.png", f"P{i}", 0, (), floats, fold=i))
    cohort = Cohort(tuple(rows), ("a",), (), ("7p", "10q"), tmp_path)
    store = build(cohort, tmp_path)
    np.testing.assert_array_equal(
        store.floats, np.array([[0, -1.5], [np.nan, -1.5], [0.2, -1.5]], np.float32)
    )
    assert store.folds.tolist() == [0, 1, 2]
    assert store.biomarker_values.shape == (3, 0)


def test_the_molecular_vector_survives(tmp_path):
    Image.fromarray(pixels(0)).save(tmp_path / "a.png")
    row = Row(tmp_path / "a.png", "P", 0, omics=(-2.0, None, 0.125))
    cohort = Cohort((row,), ("a",), root=tmp_path, omics=("EGFR", "MYC", "7p"))
    store = build(cohort, tmp_path)
    assert store.omic_names == ("EGFR", "MYC", "7p")
    np.testing.assert_array_equal(
        store.omics, np.array([[-2, np.nan, 0.125]], np.float32)
    )


def test_the_same_cohort_is_not_built_twice_and_another_is(cohort, tmp_path):
    first = build(cohort, tmp_path)
    record = next(first.folder.rglob("*.array_record*"))
    written = record.stat().st_mtime_ns
    assert build(cohort, tmp_path).folder == first.folder
    assert record.stat().st_mtime_ns == written
    Image.fromarray(pixels(99)).save(cohort.rows[3].image)
    second = build(cohort, tmp_path)
    assert second.folder != first.folder
    np.testing.assert_array_equal(second.read(3, 20), pixels(99))
    np.testing.assert_array_equal(first.read(3, 20), pixels(3))  # still whole


def test_a_store_travels_to_another_process_and_folder(cohort, tmp_path):
    store = build(cohort, tmp_path)
    store.read(0, 20)  # files are open
    again = pickle.loads(pickle.dumps(store))
    np.testing.assert_array_equal(again.read(4, 20), pixels(4))
    shutil.move(tmp_path / "data", tmp_path / "moved")
    moved = open_store(tmp_path / "moved", "cohort")
    np.testing.assert_array_equal(moved.read(4, 20), pixels(4))


def test_missing_and_damaged_stores(cohort, tmp_path):
    remedy = "data build --config=…, with the same --config arguments"
    with pytest.raises(MissingDataError, match=remedy):
        open_store(tmp_path / "data", "cohort")
    folder = build(cohort, tmp_path).folder
    text = (folder / "columns.json").read_text()
    document = json.loads(text)
    document["grades"][0] = 2
    for spoilt, why in [
        (json.dumps(document), "changed after"),
        (text[:100], "is incomplete"),
        ("[]", "is incomplete"),
        (text.replace('"format": 1', '"format": 0'), "format 0, expected 1"),
    ]:
        (folder / "columns.json").write_text(spoilt)
        with pytest.raises(MissingDataError, match=why):
            open_store(tmp_path / "data", "cohort")
    (folder / "columns.json").write_text(text)
    shutil.rmtree(folder / "regions")
    with pytest.raises(MissingDataError, match="1.0.0 is missing"):
        open_store(tmp_path / "data", "cohort")


def test_a_failed_build_leaves_the_old_store(cohort, tmp_path):
    store = build(cohort, tmp_path)

    def stop(done, of):
        if done == 4:
            raise KeyboardInterrupt

    Image.fromarray(pixels(99)).save(cohort.rows[3].image)
    with pytest.raises(KeyboardInterrupt):
        build(cohort, tmp_path, progress=stop)
    assert open_store(tmp_path / "data", "cohort").folder == store.folder
    left = [p.name for p in store.folder.parent.iterdir()]
    assert sorted(left) == sorted([".lock", "current.json", store.folder.name])


def test_what_a_killed_build_leaves_is_removed(cohort, tmp_path):
    script = textwrap.dedent(
        f"""
        import time
        from pathlib import Path
        from fof_jax.data.cohort import read_cohort
        from fof_jax.data.store import build_store
        cohort = read_cohort({str(tmp_path / "table.csv")!r}, classes={CLASSES!r},
                             biomarkers={BIOMARKERS!r})
        def hang(done, of):
            if done == 4:
                print("now", flush=True)
                time.sleep(60)
        build_store(cohort, directory={str(tmp_path / "data")!r}, name="cohort",
                    image_size=20, progress=hang)
        """
    )
    process = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, env=os.environ.copy()
    )
    with process, process.stdout:
        assert process.stdout.readline() == b"now\n"
        process.send_signal(signal.SIGKILL)
    home = tmp_path / "data/cohort/store"
    assert list(home.glob(".building-*"))
    with pytest.raises(MissingDataError):
        open_store(tmp_path / "data", "cohort")
    store = build(cohort, tmp_path)
    assert not list(home.glob(".building-*"))
    np.testing.assert_array_equal(store.read(9, 20), pixels(9))


def test_five_real_regions(tmp_path):
    folder = SHARED / "data/tcga_glioma_roi"
    if not folder.exists():
        pytest.skip(f"no real regions in {folder}")
    import csv

    text = (folder / "labels.csv").read_text(encoding="utf-8-sig")
    names = {"idh_mutation": "idh", "codeletion_1p19q": "codeletion"}
    names |= {f"{g}_cnv": g for g in ("PTEN", "EGFR", "CARD11", "FGFR2")}
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "patient", "grade", *names.values()])
        for row in csv.DictReader(text.splitlines()):
            writer.writerow([row["file"], row["patient"], row["who_grade"],
                             *(row[n] for n in names)])  # fmt: skip
    cohort = read_cohort(
        tmp_path / "t.csv",
        classes=("2", "3", "4"),
        biomarkers=tuple(names.values()),
        root=folder,
    )
    with pytest.warns(DataWarning, match=r"2 of 5 .*\(1000x1000\)"):
        store = build(cohort, tmp_path, image_size=1024)
    assert store.grades.tolist() == [2, 2, 1, 1, 1]
    assert store.biomarker_values[0].tolist() == [0, 0, -1, 2, 1, -1]
    assert {store.read(i, 1024).shape for i in range(5)} == {(1024, 1024, 3)}
    with Image.open(cohort.rows[3].image) as tiff:  # stored without loss
        np.testing.assert_array_equal(store.read(3, 1000), np.asarray(tiff))


@pytest.mark.slow
@pytest.mark.timing
def test_reading_costs_little_more_than_decoding(tmp_path):
    paths = []
    for i in range(8):
        image = np.kron(pixels(i, 256, 256), np.ones((4, 4, 1), np.uint8))
        noise = np.random.default_rng(i).integers(0, 8, image.shape, dtype=np.uint8)
        Image.fromarray(image // 2 + noise).save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    rows = tuple(Row(p, p.stem, 0) for p in paths)
    store = build(Cohort(rows, ("a",), root=tmp_path), tmp_path, image_size=1024)

    def plain(i):
        with Image.open(paths[i]) as image:
            return np.array(image)

    def best(read):
        times = []
        for i in range(8):
            start = time.process_time()
            read(i)
            times.append(time.process_time() - start)
        return min(times)

    best(lambda i: store.read(i, 1024))
    rounds = [
        (best(lambda i: store.read(i, 1024)), best(plain)) for _ in range(5)
    ]  # interleaved
    ours, theirs = (min(column) for column in zip(*rounds, strict=True))
    assert ours <= 1.15 * theirs
