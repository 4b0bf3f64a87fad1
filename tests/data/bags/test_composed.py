"""Composed bags: only tiles tell the grade, folds share no patient, files are valid."""

import collections
import csv
import dataclasses

import h5py
import numpy as np
import pytest
from PIL import Image
from sklearn.ensemble import RandomForestClassifier
from sklearn.model_selection import cross_val_score

from fof_jax.cli.main import main
from fof_jax.data.bags import composed, writing
from fof_jax.data.bags.composed import Composition
from fof_jax.data.bags.tiles import Tile, read_tiles
from fof_jax.data.cohort import Cohort, Row, read_cohort

CLASSES = ("benign", "low", "high")
SIDE = 16  # four tiles of 8 pixels


def tiles_of(patients=24, each=40):
    """Tiles of many patients, three grades, half of them covered."""
    return [
        Tile(row=p, at=at, grade=p % 3, patient=f"P{p}", covered=at % 2 == 0)
        for p in range(patients)
        for at in range(each)
    ]


FOLD_OF = {f"P{p}": p // 3 % 2 for p in range(24)}


def planned(**kwargs):
    composition = Composition(**{"share": 0.05, "fewest": 4, "most": 60} | kwargs)
    return composed.plan(tiles_of(), FOLD_OF, CLASSES, composition, seed=3)


def test_what_a_bag_is_made_of():
    bags = planned(per_fold=30)
    assert len(bags) == 60
    for bag in bags:
        count = len(bag.tiles)
        assert 4 <= count <= 60
        assert len(set(bag.tiles)) == count  # no tile twice
        assert sorted(bag.cells) == list(range(count))
        assert {FOLD_OF[tile.patient] for tile in bag.tiles} == {bag.fold}
        chosen = [t for t, c in zip(bag.tiles, bag.chosen, strict=True) if c]
        rest = [t for t, c in zip(bag.tiles, bag.chosen, strict=True) if not c]
        assert len(chosen) == max(1, round(0.05 * count))
        assert all(tile.covered and tile.grade == bag.grade for tile in chosen)
        assert all(tile.grade == 0 for tile in rest)
        assert len({tile.patient for tile in chosen}) == 1  # has 20 covered tiles
    assert collections.Counter(bag.grade for bag in bags) == {0: 20, 1: 20, 2: 20}


def test_many_deciding_tiles_are_of_several_patients():
    for bag in planned(per_fold=9, share=0.5, fewest=60):
        chosen = [t for t, c in zip(bag.tiles, bag.chosen, strict=True) if c]
        assert len(chosen) == 30
        assert len({tile.patient for tile in chosen}) == 2  # of 20 covered tiles each


def test_sizes_and_coordinates_are_equal_among_grades():
    bags = planned(per_fold=30)
    for k in range(0, 60, 3):
        trio = bags[k : k + 3]
        assert [bag.grade for bag in trio] == [0, 1, 2]
        assert len({len(bag.tiles) for bag in trio}) == 1
        assert len({sum(bag.chosen) for bag in trio}) == 1
    assert len({len(bag.tiles) for bag in bags}) > 10


def test_the_grade_is_not_predicted_by_sizes_order_or_places():
    bags = planned(per_fold=300)
    rows = []
    for bag in bags:
        count, cells = len(bag.tiles), np.array(bag.cells)
        columns = int(np.ceil(np.sqrt(count)))
        corners = np.stack([cells % columns, cells // columns])
        moves = np.abs(np.diff(corners, axis=1)).mean(axis=1)
        rows.append([count, *corners.mean(axis=1), *corners[:, 0], *corners[:, -1],
                     *corners.std(axis=1), *moves])  # fmt: skip
    grade = np.array([bag.grade for bag in bags])
    forest = RandomForestClassifier(100, random_state=0)
    accuracy = cross_val_score(forest, np.array(rows), grade, cv=5).mean()
    # 600 bags, chance 1/3: standard deviation 0.019; 4 of them.
    assert abs(accuracy - 1 / 3) < 0.077
    # The chosen tiles lie anywhere, in the file and on the grid.
    for grade_of in range(3):
        ranks, places = [], []
        for bag in bags:
            if bag.grade == grade_of and len(bag.tiles) > 20:
                at = np.flatnonzero(bag.chosen)
                ranks += ((at + 0.5) / len(bag.tiles)).tolist()
                cells = np.array(bag.cells)[at]
                places += ((cells + 0.5) / len(bag.tiles)).tolist()
        for values in (ranks, places):  # uniform: 1/2, standard deviation 0.29
            assert abs(np.mean(values) - 0.5) < 4 * 0.29 / len(values) ** 0.5


def test_equal_seeds_give_equal_bags():
    tiles, composition = tiles_of(), Composition(fewest=4, most=60, per_fold=6)
    one, same, other = (
        composed.plan(tiles, FOLD_OF, CLASSES, composition, seed=s) for s in (3, 3, 4)
    )
    assert one == same != other


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"share": 0.0}, "--share: got 0.0"),
        ({"fewest": 9, "most": 8}, "--fewest, --most: got 9 and 8"),
        ({"per_fold": 0}, "--per_fold: got 0"),
    ],
)
def test_bad_compositions(fields, message):
    with pytest.raises(ValueError, match=message):
        Composition(**fields)


def test_a_fold_with_too_few_tiles_is_named():
    with pytest.raises(ValueError, match=r"Fold 0 of 2 has 160 tiles of grade benign"):
        planned(most=161)
    with pytest.raises(ValueError, match=r"80 covered tiles of grade low"):
        planned(most=160, share=0.9)


@pytest.fixture
def cohort(tmp_path):
    """36 images of 18 patients with masks of their left halves, and their features."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "source"
    (folder / "images").mkdir(parents=True)
    rows = []
    for i in range(36):
        image, mask = folder / f"images/{i}.png", folder / f"images/{i}_mask.png"
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
        Image.fromarray(pixels).save(image)
        inside = np.zeros((SIDE, SIDE), np.uint8)
        inside[:, :8] = 255
        Image.fromarray(inside).save(mask)
        rows.append(Row(image, f"P{i // 2}", i // 2 % 3, mask=mask))
        path = tmp_path / f"features/images/{i}.h5"
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(path, "w") as file:  # the value tells image and tile
            at = np.arange(4, dtype=np.float32)
            file["features"] = np.stack([np.full(4, i, np.float32), at], axis=1)
            file["coords"] = np.array([(0, 0), (8, 0), (0, 8), (8, 8)])
            file["coords"].attrs["patch_size_level0"] = 8
    return Cohort(tuple(rows), CLASSES, root=folder)


SMALL = Composition(share=0.2, fewest=3, most=10, per_fold=6)


def test_coverage_of_tiles(cohort, tmp_path):
    tiles, entries = read_tiles(cohort, tmp_path / "features")
    assert len(tiles) == 144
    assert len(entries) == 36
    assert [tile.covered for tile in tiles[:4]] == [True, False, True, False]


def test_the_files_are_a_cohort_of_bags(cohort, tmp_path):
    out = tmp_path / "bags"
    composed.write_bags(
        cohort, tmp_path / "features", out, composition=SMALL, folds=3, seed=1
    )
    made = read_cohort(out / "table.csv", classes=CLASSES, biomarkers=())
    assert len(made.rows) == 18
    assert made.bags.has_mask.all()
    with (out / "tiles.csv").open() as file:
        sources = list(csv.DictReader(file))
    by_bag = collections.defaultdict(list)
    for source in sources:
        by_bag[source["bag"]].append(source)
    folds = collections.defaultdict(set)
    for i, row in enumerate(made.rows):
        name = made.name_of(row)
        values, mask = made.bags.read(i).features, made.bags.read_mask(i)
        own = by_bag[name]
        assert mask.sum() == (0 if row.grade == 0 else max(1, round(0.2 * len(own))))
        for at, source in enumerate(own):
            image = int(source["image"].split("/")[1].split(".")[0])
            assert values[at].tolist() == [image, int(source["tile"])]
            assert int(source["deciding"]) == mask[at]
            assert source["patient"] == cohort.rows[image].patient
            if mask[at]:
                assert cohort.rows[image].grade == row.grade
            folds[source["patient"]].add(row.fold)
    assert all(len(numbers) == 1 for numbers in folds.values())


def test_faults_of_the_features_are_named(cohort, tmp_path):
    features = tmp_path / "features"
    (features / "images/7.h5").unlink()
    with pytest.raises(ValueError, match=r"1 of 36 images have no valid.*7.h5"):
        read_tiles(cohort, features)
    larger = dataclasses.replace(cohort, rows=cohort.rows[:2])
    with h5py.File(features / "images/0.h5", "a") as file:
        file["coords"].attrs["patch_size_level0"] = 9
    with pytest.raises(ValueError, match=r"0.png is 16x16, and tiles"):
        read_tiles(larger, features)


def test_nothing_is_overwritten(cohort, tmp_path):
    with pytest.raises(ValueError, match="is not empty"):
        composed.write_bags(
            cohort, tmp_path / "features", tmp_path, composition=SMALL, folds=3, seed=1
        )


def test_the_verb(cohort, tmp_path, capsys):
    with (tmp_path / "source/table.csv").open("w") as file:
        file.write("image,patient,grade,mask\n")
        for i, row in enumerate(cohort.rows):
            file.write(f"images/{i}.png,{row.patient},{CLASSES[row.grade]},"
                       f"images/{i}_mask.png\n")  # fmt: skip
    words = [
        "data", "bags", "--config=configs/cohort.py",
        f"--config.data.table={tmp_path / 'source/table.csv'}",
        f"--config.data.classes={CLASSES!r}", "--config.data.biomarkers=()",
        "--config.folds=3", f"--out={tmp_path / 'bags'}",
        "--share=0.2", "--fewest=3", "--most=10", "--per_fold=6",
    ]  # fmt: skip
    assert main(words) == 2
    assert "--features is not set" in capsys.readouterr().err
    assert main([*words, f"--features={tmp_path / 'features'}"]) == 0
    told = capsys.readouterr().out
    assert "18 bags of 3 to 10 tiles" in told
    assert "--config.data.scheme=fold --config.folds=3" in told


def test_names_of_files(tmp_path):
    assert writing.path_of(tmp_path, "a/b.tif") == tmp_path / "a/b.h5"
    assert writing.path_of(tmp_path, "/x/b.svs", "npz") == tmp_path / "b.npz"
    assert writing.path_of(tmp_path, "../b.svs") == tmp_path / "b.h5"
