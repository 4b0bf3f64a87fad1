"""`data mosaic`: what decides a mosaic, where it lies, and that no fold leaks."""

import collections
import csv
import io

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.data import act
from fof_jax.data.cohort import read_cohort
from fof_jax.data.mosaic import Layout, plan, render, write_mosaics
from tests.support.cohort_files import BIOMARKERS, CLASSES
from tests.support.data_verb import config_for

LAYOUT = Layout(grid=3, tile=8, per_fold=12)
N = 96


def color(i):
    """Of image i: no two alike, and far enough apart for JPEG."""
    return np.array([(i % 5) * 60, (i // 5 % 5) * 60, (i // 25) * 60])


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Images of one color, whose mask is the left half; three images per patient."""
    folder = tmp_path_factory.mktemp("tiles")
    with (folder / "table.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "mask", "patient", "grade", *BIOMARKERS, "fold"])
        for i in range(N):
            pixels = np.broadcast_to(color(i).astype(np.uint8), (20, 20, 3))
            Image.fromarray(np.ascontiguousarray(pixels)).save(folder / f"{i}.png")
            mask = np.zeros((20, 20), np.uint8)
            mask[:, :10] = 255
            Image.fromarray(mask).save(folder / f"{i}m.png")
            patient = i // 3
            # Patients of the lowest grade first; two markers, the second per image.
            grade = 0 if patient < 16 else 1 + patient % 2
            cells = [f"{i}.png", f"{i}m.png", f"P{patient}", CLASSES[grade]]
            writer.writerow([*cells, patient % 2, i % 3, patient % 4 // 2])
    return folder / "table.csv"


def read(table, **fields):
    return read_cohort(
        table,
        **{
            "classes": CLASSES,
            "biomarkers": BIOMARKERS,
            "biomarkers_per": "region",
            "decode": False,
            **fields,
        },
    )


def without_folds(table, tmp_path):
    with table.open(newline="") as file:
        rows = [row[:-1] for row in csv.reader(file)]
    copy = tmp_path / "no_folds.csv"
    copy.write_text("\n".join(",".join(row) for row in rows))
    return read(copy, root=table.parent)


@pytest.mark.parametrize("own", [True, False])
def test_one_or_two_tiles_of_one_patient_decide_and_no_fold_leaks(table, tmp_path, own):
    cohort = read(table) if own else without_folds(table, tmp_path)
    mosaics = plan(cohort, layout=LAYOUT, folds=2, seed=3)
    assert len(mosaics) == 24
    folds = collections.defaultdict(set)
    counts = collections.Counter()
    for mosaic in mosaics:
        rows = [cohort.rows[i] for i in mosaic.tiles]
        counts[mosaic.grade, mosaic.deciding] += 1
        assert len(set(mosaic.tiles)) == 9
        assert sorted(mosaic.places) == list(range(9))
        deciding, rest = rows[: mosaic.deciding], rows[mosaic.deciding :]
        assert {row.grade for row in deciding} <= {mosaic.grade}
        assert {row.grade for row in rest} == {0}
        assert len({row.patient for row in deciding}) <= 1
        for row in rows:
            folds[row.patient].add(mosaic.fold)
            assert not own or row.fold == mosaic.fold
    assert all(len(numbers) == 1 for numbers in folds.values())
    assert {g for g, _ in counts} == {0, 1, 2}
    assert {d for g, d in counts if g} == {1, 2}
    assert {d for g, d in counts if not g} == {0}
    assert plan(cohort, layout=LAYOUT, folds=2, seed=3) == mosaics
    assert plan(cohort, layout=LAYOUT, folds=2, seed=4) != mosaics


def test_every_cell_is_its_tile_and_the_mask_is_that_of_the_deciding_ones(
    table, tmp_path
):
    cohort = read(table)
    made = write_mosaics(cohort, tmp_path / "out", layout=LAYOUT, folds=2, seed=3)
    again = read_cohort(
        tmp_path / "out/table.csv",
        classes=CLASSES,
        biomarkers=BIOMARKERS,
        biomarkers_per="region",
    )
    assert again.rows == made.rows
    sources = collections.defaultdict(list)
    with (tmp_path / "out/tiles.csv").open(newline="") as file:
        for row in csv.DictReader(file):
            sources[row["image"]].append(row)
    number = {cohort.name_of(row): i for i, row in enumerate(cohort.rows)}
    for row in again.rows:
        picture = np.asarray(Image.open(row.image)).astype(int)
        mask = np.asarray(Image.open(row.mask)) > 0
        for source in sources[again.name_of(row)]:
            top, left = (8 * k for k in divmod(int(source["place"]), 3))
            cell = picture[top : top + 8, left : left + 8]
            wanted = color(number[source["tile"]])
            assert np.abs(cell - wanted).max() < 20, source
            share = mask[top : top + 8, left : left + 8].mean()
            assert share == (0.5 if source["deciding"] == "1" else 0)
        assert mask.any() == (row.grade > 0)
        if row.grade == 0:
            assert row.biomarkers == (None, None)
            continue
        deciding = [
            cohort.rows[number[source["tile"]]]
            for source in sources[again.name_of(row)]
            if source["deciding"] == "1"
        ]
        assert row.patient == deciding[0].patient
        assert row.biomarkers[0] == deciding[0].biomarkers[0]
        # The second marker differs between the images of a patient.
        only = deciding[0].biomarkers[1] if len(deciding) == 1 else None
        assert row.biomarkers[1] == only


def test_image_and_mask_are_turned_alike(tmp_path):
    """A tile that is white where its mask is, so that both pictures must agree."""
    shape = np.zeros((16, 16), np.uint8)
    shape[:8, :12] = 255  # no symmetry
    Image.fromarray(shape).save(tmp_path / "m.png")
    Image.fromarray(np.stack([shape] * 3, -1)).save(tmp_path / "high.png")
    lines = ["image,mask,patient,grade", "high.png,m.png,P1,III"]
    for i in range(9):
        Image.new("RGB", (16, 16)).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,,P{i + 2},II")
    (tmp_path / "t.csv").write_text("\n".join(lines))
    cohort = read(tmp_path / "t.csv", classes=("II", "III"), biomarkers=())
    layout = Layout(grid=3, tile=16, per_fold=16)
    orientations = set()
    for mosaic in plan(cohort, layout=layout, folds=1, seed=0):
        picture, mask = render(mosaic, cohort, layout)
        np.testing.assert_array_equal(picture[..., 0] > 127, mask)
        if mosaic.grade:
            orientations.add((mosaic.turns[0], mosaic.mirrored[0]))
    assert len(orientations) > 3


def test_what_cannot_be_drawn_is_an_error(table, tmp_path):
    cohort = read(table)
    with pytest.raises(ValueError, match="images of grade II to fill a mosaic"):
        plan(cohort, layout=Layout(grid=6, tile=8), folds=2, seed=0)
    with pytest.raises(ValueError, match="at least two grades"):
        plan(read_cohort_of_one_class(tmp_path, table), layout=LAYOUT, folds=2, seed=0)
    text = table.read_text().replace("P0,II,0,0,0", "P0,II,0,0,1", 1)
    torn = tmp_path / "torn.csv"
    torn.write_text(text)
    with pytest.raises(ValueError, match="several folds: P0"):
        plan(read(torn, root=table.parent), layout=LAYOUT, folds=2, seed=0)
    with pytest.raises(ValueError, match="--tile: got 0, expected at least 8"):
        Layout(tile=0)
    (tmp_path / "full").mkdir()
    (tmp_path / "full/a").touch()
    with pytest.raises(ValueError, match="is not empty"):
        write_mosaics(cohort, tmp_path / "full", layout=LAYOUT, folds=2, seed=0)


def read_cohort_of_one_class(tmp_path, table):
    lines = [line for line in table.read_text().splitlines() if ",III," not in line]
    lines = [line for line in lines if ",IV," not in line]
    (tmp_path / "one.csv").write_text("\n".join(lines))
    return read(tmp_path / "one.csv", classes=("II",), root=table.parent)


def test_the_verb_writes_a_table_that_it_can_check(table, tmp_path):
    config = config_for(tmp_path, table=str(table), biomarkers_per="region")
    out, folder = io.StringIO(), tmp_path / "mosaic"
    act("mosaic", config, path=folder, layout=LAYOUT, out=out)
    assert "24 images of" in out.getvalue()
    assert "--config.data.scheme=fold --config.folds=2" in out.getvalue()
    config.data.table, config.folds = str(folder / "table.csv"), 2
    checked = io.StringIO()
    act("check", config, out=checked)
    assert "no errors" in checked.getvalue()
    config.data.name = "phantom"
    with pytest.raises(ValueError, match="expected 'cohort'"):
        act("mosaic", config, path=folder, out=out)
