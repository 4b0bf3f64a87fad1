"""Graphs of a store: sources, resuming after a kill, hashes, and batches."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image

from fof_jax.data.cohort import read_cohort
from fof_jax.data.errors import MissingDataError
from fof_jax.data.graphs import build, builder, contours, folder, sheet, sources
from fof_jax.data.loader import train_batches
from fof_jax.data.store import build_store, open_store
from tests.support.cohort_files import BIOMARKERS, CLASSES, rows_of, write_table

pytest.importorskip("skimage", reason="the extra graphs is not installed")
N, SIDE = 6, 96


def labels_of(i):
    """Disks of radius 6 on a grid; region 5 has none."""
    labels = np.zeros((SIDE, SIDE), np.uint16)
    y, x = np.mgrid[:SIDE, :SIDE]
    for k in range(0 if i == 5 else i + 3):
        row, column = divmod(k, 4)
        inside = (y - 14 - 22 * row) ** 2 + (x - 14 - 22 * column) ** 2 < 36
        labels[inside] = 7 * (k + 1)
    return labels


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    root = tmp_path_factory.mktemp("graphs")
    (root / "img").mkdir()
    (root / "maps").mkdir()
    rng = np.random.default_rng(0)
    for i in range(N):
        labels = labels_of(i)
        color = np.where(labels[..., None] > 0, (70, 40, 120), (235, 190, 215))
        noisy = color + rng.integers(-9, 10, (SIDE, SIDE, 3)) * (i < 5)
        Image.fromarray(noisy.astype(np.uint8)).save(root / f"img/{i:03d}.png")
        Image.fromarray(labels).save(root / f"maps/{i:03d}_cp_masks.png")
    table = write_table(root, rows_of(N))
    cohort = read_cohort(table, classes=CLASSES, biomarkers=BIOMARKERS)
    build_store(cohort, directory=root / "data", name="cohort", image_size=SIDE)
    return root


@pytest.fixture
def store(root):
    return open_store(root / "data", "cohort")


def quiet(line):
    del line


def test_columns_are_scikit_images():
    from skimage.measure import regionprops

    rng = np.random.default_rng(1)
    labels = np.zeros((60, 80), int)
    for k in range(12):  # overlapping ellipses: touching and divided nuclei
        y, x = np.mgrid[:60, :80]
        cy, cx, a, b = *rng.uniform(0, (60, 80)), *rng.uniform(1, 12, 2)
        labels[((y - cy) / a) ** 2 + ((x - cx) / b) ** 2 < 1] = 3 * k + 2
    labels[0, 0] = 99  # one pixel
    shapes = contours.measure(contours.number_labels(labels))
    reference = regionprops(labels)
    for name, value in {
        "short": [n.axis_minor_length for n in reference],
        "long": [n.axis_major_length for n in reference],
        "area": [n.area for n in reference],
        "perimeter": [n.perimeter for n in reference],
        "eccentricity": [n.eccentricity for n in reference],
    }.items():
        np.testing.assert_allclose(getattr(shapes, name), value, atol=1e-6)
    angles = np.radians(shapes.angle - [np.degrees(n.orientation) for n in reference])
    round_ = np.isclose(shapes.short, shapes.long)
    np.testing.assert_allclose(np.sin(angles)[~round_], 0, atol=1e-6)


def test_a_store_without_graphs_is_refused_with_the_command(store):
    with pytest.raises(MissingDataError, match="python launch.py data graphs"):
        folder.open_folder(store)


def test_the_builder_finds_the_disks_and_a_region_without_nuclei_is_empty(store):
    calls = []
    source = sources.find(store, pt=None, labels=None, mpp=0.5)
    graphs = build.build(
        store, source, progress=lambda *done: calls.append(done), log=quiet
    )
    assert calls == [(k, N) for k in range(1, N + 1)]
    assert graphs.nodes.tolist() == [3, 4, 5, 6, 7, 0]
    assert graphs.few == 1
    assert graphs.columns == builder.COLUMNS
    for row in range(5):
        labels = labels_of(row)
        x, y = graphs.graph(row).centroid.round().astype(int).T
        assert (labels[y, x] > 0).all()
    # Again: nothing is built. With another source: replaced.
    calls.clear()
    again = build.build(store, source, progress=lambda *d: calls.append(d), log=quiet)
    assert (again.digest, calls) == (graphs.digest, [])


@pytest.mark.slow
def test_two_processes_build_the_same(store):
    source = sources.find(store, pt=None, labels=None, mpp=0.5)
    alone = build.build(store, source, log=quiet)
    kept = folder.open_folder(store).hashes
    for path in alone.path.iterdir():
        path.unlink()
    alone.path.rmdir()
    assert build.build(store, source, processes=2, log=quiet).hashes == kept
    with pytest.raises(ValueError, match="--processes=0"):
        build.build(store, source, processes=0, log=quiet)


def test_label_maps_are_found_by_name_and_give_their_nuclei(root, store, tmp_path):
    build.build(store, sources.find(store, pt=None, labels=None, mpp=0.5), log=quiet)
    source = sources.find(store, pt=None, labels=root / "maps", mpp=0.5)
    assert source.files[0].name == "000_cp_masks.png"
    lines = []
    graphs = build.build(store, source, log=lines.append)
    assert "made in another way" in lines[0]
    assert graphs.nodes.tolist() == [3, 4, 5, 6, 7, 0]
    area = graphs.graph(2).x[:, graphs.columns.index("area")]
    expected = np.bincount(labels_of(2).ravel())
    np.testing.assert_array_equal(area, expected[expected > 0][1:])
    sheet.write(store, graphs, source, tmp_path / "sheet.png", rows=[0, 2])
    with Image.open(tmp_path / "sheet.png") as image:
        pixels = np.array(image)
    for color in (sheet._OUTLINE, sheet._EDGE, sheet._NODE):
        assert (pixels == color).all(-1).sum() > 20
    # At another scale the columns are those of 0.5 micrometers per pixel.
    graph = builder.build(
        np.zeros((SIDE, SIDE, 3), np.uint8), labels_of(2).astype(int), mpp=1.0
    )
    np.testing.assert_allclose(graph.x[:, 3], 4 * area)
    # Disks lie symmetrically about a pixel: the mean of their pixels is exact.
    labels = labels_of(2)
    pixels = [np.argwhere(labels == k)[:, ::-1] for k in np.unique(labels)[1:]]
    centers = np.array([of_one.mean(axis=0) for of_one in pixels])
    np.testing.assert_array_equal(graph.centroid, centers)
    np.testing.assert_array_equal(graphs.graph(2).centroid, centers)


def test_missing_doubled_and_wrong_label_maps_are_named(root, store, tmp_path):
    for i in range(N - 1):
        np.save(tmp_path / f"{i:03d}.npy", labels_of(i))
    (tmp_path / "000.png").write_bytes((root / "img/000.png").read_bytes())
    with pytest.raises(MissingDataError) as caught:
        sources.find(store, pt=None, labels=tmp_path, mpp=0.5)
    assert "2 of 6 regions" in str(caught.value)
    assert "img/005.png: no file" in str(caught.value)
    assert "img/000.png: 000.npy, 000.png" in str(caught.value)
    with pytest.raises(ValueError, match="expected one of them"):
        sources.find(store, pt=tmp_path, labels=tmp_path, mpp=0.5)
    with pytest.raises(ValueError, match=r"uint8 of shape \(96, 96, 3\)"):
        sources.read_labels(tmp_path / "000.png")
    np.save(tmp_path / "b.npy", (labels_of(2) > 0).astype(int))
    with pytest.raises(ValueError, match="mask of 5 objects with one number"):
        sources.read_labels(tmp_path / "b.npy")
    np.save(tmp_path / "c.npy", labels_of(2) * 0.3)
    with pytest.raises(ValueError, match="not whole"):
        sources.read_labels(tmp_path / "c.npy")
    np.save(tmp_path / "d.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(ValueError, match="cannot be read"):
        sources.read_labels(tmp_path / "d.npy")


def test_batches_have_graphs_of_one_shape_and_no_images(store):
    source = sources.find(store, pt=None, labels=None, mpp=0.5)
    build.build(store, source, log=quiet)
    graphs = folder.open_folder(store, bucket=4)
    options = {"batch_size": 4, "epochs": 1, "seed": 3, "image_size": SIDE}
    options |= {"graphs": graphs, "images": False}
    (whole,) = train_batches(store, range(N), **options)
    assert whole.image is None
    count = whole.graph.node_mask.sum(1)
    np.testing.assert_array_equal(count, graphs.nodes[whole.index])
    options["process_count"] = 2
    halves = [
        next(train_batches(store, range(N), process_index=k, **options)) for k in (0, 1)
    ]
    for k, half in enumerate(halves):
        for part, of_all in zip(half.graph, whole.graph, strict=True):
            np.testing.assert_array_equal(part, of_all[2 * k : 2 * k + 2])


def test_a_changed_file_and_a_damaged_index_are_refused(store):
    source = sources.find(store, pt=None, labels=None, mpp=0.5)
    graphs = build.build(store, source, log=quiet)
    path = graphs.path / "000001.npz"
    whole = path.read_bytes()
    path.write_bytes((graphs.path / "000002.npz").read_bytes())
    with pytest.raises(MissingDataError, match="its hash is not that of the index"):
        folder.open_folder(store).graph(1)
    path.write_bytes(whole)
    index = graphs.path / "index.json"
    text = index.read_text()
    index.write_text(text[:-9])
    with pytest.raises(MissingDataError, match="is damaged"):
        folder.open_folder(store)
    index.write_text(json.dumps(json.loads(text) | {"graphs": []}))
    with pytest.raises(MissingDataError, match="0 graphs, expected 6"):
        folder.open_folder(store)
    index.write_text(text)


KILLED = """
import sys, time
from fof_jax.data.graphs import build, sources
from fof_jax.data.store import open_store
store = open_store(sys.argv[1], "cohort")
source = sources.find(store, pt=None, labels=None, mpp=0.4)
def progress(done, total):
    print(done, flush=True)
    if done == 3:
        time.sleep(60)
build.build(store, source, progress=progress)
"""


def test_it_resumes_after_kill_9(root, store):
    command = [sys.executable, "-c", KILLED, str(root / "data")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.strip() == "3":
            break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    process.stdout.close()
    staging = store.folder / build.STAGING
    done = {path: path.stat().st_mtime_ns for path in staging.glob("*.npz")}
    assert len(done) == 3
    time.sleep(0.01)
    calls, lines = [], []
    source = sources.find(store, pt=None, labels=None, mpp=0.4)
    graphs = build.build(
        store, source, progress=lambda *d: calls.append(d), log=lines.append
    )
    assert calls == [(4, N), (5, N), (6, N)]
    assert "resumes: 3 of 6" in lines[-1]
    for path, written in done.items():
        assert (graphs.path / path.name).stat().st_mtime_ns == written
    assert not staging.exists()
