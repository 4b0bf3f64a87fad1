"""Phantom: reproducibility, table, masks, and color that does not reveal the grade.

References are independent of the code under test: hashes were recorded once, and the
counts of the frequency table are summed here.
"""

import csv
import hashlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC
from sklearn.tree import DecisionTreeClassifier

from fof_jax.data.datasets.phantom import (
    cohort,
    patient,
    random,
    region,
    slide,
    writer,
)


def _patient_of(grade: int, start: int = 0) -> cohort.Patient:
    patients = (cohort.draw_patient(5, i) for i in range(start, start + 6))
    return next(p for p in patients if p.grade == grade)


def test_table_and_files(tmp_path):
    calls = []
    path = writer.write_cohort(
        tmp_path,
        regions=11,
        image_size=64,
        seed=3,
        progress=lambda done, total: calls.append((done, total)),
    )
    assert path == tmp_path / "cohort.csv"
    assert calls == [(i, 11) for i in range(1, 12)]
    with path.open(newline="") as f:
        rows = list(csv.DictReader(f))
    assert list(rows[0]) == [
        *("image", "patient", "grade"),
        *("idh", "codeletion", "PTEN", "EGFR", "CARD11", "FGFR2"),
        *("10q", "10p", "7p", "7q", "mask"),
    ]
    assert len({row["image"] for row in rows}) == 11
    counts = Counter(row["grade"] for row in rows)
    assert set(counts) == {"II", "III", "IV"}
    assert max(counts.values()) - min(counts.values()) <= 1
    for row in rows:
        with Image.open(tmp_path / row["image"]) as image:
            assert (image.mode, image.size) == ("RGB", (64, 64))
        with Image.open(tmp_path / row["mask"]) as mask:
            assert (mask.mode, mask.size) == ("1", (64, 64))
            assert np.asarray(mask).any() == (row["grade"] != "II")
        for marker in cohort.BIOMARKERS:
            assert row[marker] in {"", "-2", "-1", "0", "1", "2"}
        assert all(abs(float(row[arm])) < 2 for arm in cohort.FLOAT_MARKERS)
    # One set of biomarkers a patient.
    columns = [*cohort.BIOMARKERS, *cohort.FLOAT_MARKERS, "grade"]
    sets = {(row["patient"], *(row[c] for c in columns)) for row in rows}
    assert len(sets) == len({row["patient"] for row in rows})
    left = [p.name for p in tmp_path.rglob("*") if p.name.startswith(".")]
    assert left == []


def test_same_arguments_same_bytes(tmp_path):
    contents = []
    for name in "ab":
        writer.write_cohort(tmp_path / name, regions=5, image_size=64, seed=7)
        files = sorted((tmp_path / name).rglob("*.*"))
        contents.append([(f.name, f.read_bytes()) for f in files])
    assert contents[0] == contents[1]
    writer.write_cohort(tmp_path / "c", regions=5, image_size=64, seed=8)
    other = (tmp_path / "c" / "images" / "PH-0000_0.png").read_bytes()
    assert other != (tmp_path / "a" / "images" / "PH-0000_0.png").read_bytes()


def test_processes_write_the_bytes_of_one(tmp_path, monkeypatch):
    monkeypatch.setattr(writer, "SHARE", 2)
    calls, contents = [], []
    for cores in (1, 3):
        folder = tmp_path / str(cores)
        writer.write_cohort(
            folder, regions=8, image_size=64, seed=7, cores=cores,
            progress=lambda done, total: calls.append((done, total)),
        )  # fmt: skip
        paths = sorted(folder.rglob("*.*"))
        contents.append([(p.relative_to(folder), p.read_bytes()) for p in paths])
    assert len(contents[0]) == 2 * 8 + 1
    assert contents[0] == contents[1]
    assert calls[8:] == [(3, 8), (6, 8), (8, 8)]


def test_a_process_that_fails_is_named(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(writer, "SHARE", 1)
    monkeypatch.setattr(writer, "write_images", lambda *a, **k: None)
    with pytest.raises(cohort.PhantomError, match="1 of 2 processes .* exit code 1"):
        writer.write_cohort(tmp_path, regions=2, image_size=63, seed=7, cores=2)
    assert "no regions with a side of 63 pixels" in capfd.readouterr().err


def test_a_larger_cohort_begins_with_the_smaller():
    small = [(p.name, i) for p, i in cohort.cohort(regions=20, seed=1)]
    large = [(p.name, i) for p, i in cohort.cohort(regions=50, seed=1)]
    assert large[:20] == small


def test_files_have_the_pixels_of_the_regions(tmp_path):
    writer.write_cohort(tmp_path, regions=1, image_size=97, seed=7)
    patient, index = next(cohort.cohort(regions=1, seed=7))
    region = cohort.draw_region(patient, index, image_size=97)
    for folder, pixels in (("images", region.image), ("masks", region.mask)):
        with Image.open(tmp_path / folder / f"{region.name}.png") as image:
            np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.parametrize("size", [64, 97, 224])
def test_region_at_any_size(size):
    sampled = cohort.draw_region(_patient_of(2), 1, image_size=size)
    assert sampled.image.shape == (size, size, 3)
    assert sampled.image.dtype == np.uint8
    assert sampled.mask.shape == (size, size)
    # Structures are a small part, and there is contrast to see them by.
    assert 0.01 < sampled.mask.mean() < 0.4
    assert sampled.image.std() > 15


def test_mask_follows_the_grade():
    share = {0: [], 1: [], 2: []}
    for i in range(45):
        p = cohort.draw_patient(2, i)
        sampled = cohort.draw_region(p, 0, image_size=64, artifacts=False)
        share[p.grade].append(sampled.mask.mean())
    assert max(share[0]) == 0
    assert min(share[1]) > 0
    assert min(share[2]) > 0.03
    # Tufts and necrosis are larger than mitoses and giants.
    assert np.mean(share[2]) > 1.8 * np.mean(share[1])
    assert np.mean(share[2]) < 0.3


@pytest.mark.parametrize("grade", [1, 2])
def test_structures_left_out_change_little_elsewhere(grade):
    p = _patient_of(grade)
    plain = {"image_size": 128, "artifacts": False}
    full = cohort.draw_region(p, 0, **plain)
    bare = cohort.draw_region(p, 0, structures=False, **plain)
    assert not bare.mask.any()
    change = np.abs(full.image.astype(int) - bare.image.astype(int)).max(axis=2)
    # Elsewhere the stain's normalization moves the colors, and no more: the
    # correlation of the two images stays nearly 1, and is lost in the structures.
    out = ~full.mask
    gray = [r.image.mean(axis=2) for r in (full, bare)]
    assert np.corrcoef(gray[0][out], gray[1][out])[0, 1] > 0.9
    assert np.corrcoef(gray[0][full.mask], gray[1][full.mask])[0, 1] < 0.6
    assert change[full.mask].mean() > 2 * change[out].mean()


def test_restaining_keeps_the_tissue():
    p, q = _patient_of(2), _patient_of(0)
    own = cohort.draw_region(p, 0, image_size=96, artifacts=False)
    other = cohort.draw_region(p, 0, image_size=96, artifacts=False, stain=q.stain)
    np.testing.assert_array_equal(own.mask, other.mask)
    means = [r.image.mean(axis=(0, 1)) for r in (own, other)]
    assert np.abs(means[0] - means[1]).max() > 4
    gray = [r.image.mean(axis=2).ravel() for r in (own, other)]
    assert np.corrcoef(*gray)[0, 1] > 0.9


@pytest.mark.slow  # 400 patients; test_recorded_bytes holds the generator between
def test_biomarkers_follow_the_frequencies():
    patients = [cohort.draw_patient(0, i) for i in range(1200)]
    for grade in range(3):
        rows = np.array([p.status for p in patients if p.grade == grade])
        assert len(rows) == 400
        wild, mutant, codeleted = patient.SUBTYPE_BY_GRADE[grade].values()
        n = wild + mutant + codeleted
        # Four standard errors of a share over 400 draws: 4 sqrt(0.25/400) = 0.1.
        assert rows[:, 0].mean() == pytest.approx((mutant + codeleted) / n, abs=0.1)
        assert rows[:, 1].mean() == pytest.approx(codeleted / n, abs=0.1)
        assert (rows[:, 1] <= rows[:, 0]).all()
    hidden = np.array([[b is None for b in p.biomarkers] for p in patients])
    assert hidden[:, 0].mean() == pytest.approx(4 / 74, abs=0.026)
    assert hidden[:, 2].mean() == pytest.approx(3 / 74, abs=0.023)
    status = np.array([p.status for p in patients])
    floats = np.array([p.floats for p in patients])
    assert np.corrcoef(status[:, 2], floats[:, 0])[0, 1] > 0.5  # PTEN, 10q
    assert np.corrcoef(status[:, 3], floats[:, 2])[0, 1] > 0.5  # EGFR, 7p
    assert sorted({p.regions for p in patients}) == [1, 2, 3]


def test_frequencies_count_the_patients():
    # 72 patients have a grade, 4 of them no IDH status; 71 have copy numbers.
    assert sum(sum(c.values()) for c in patient.SUBTYPE_BY_GRADE) == 68
    assert sum(sum(c.values()) for c in patient.EGFR_BY_SUBTYPE) == 68
    pairs = patient.PTEN_BY_SUBTYPE_AND_EGFR
    assert sum(sum(c.values()) for c in pairs.values()) == 68
    assert sum(sum(c.values()) for c in patient.CARD11_BY_EGFR.values()) == 71
    assert sum(sum(c.values()) for c in patient.FGFR2_BY_PTEN.values()) == 71
    for subtype, counts in enumerate(patient.EGFR_BY_SUBTYPE):
        for egfr, n in counts.items():
            assert sum(pairs[subtype, egfr].values()) == n


def test_standardise_sets_both_moments():
    x = np.random.default_rng(1).normal(0.5, 0.1, (80, 80)).astype(np.float32)
    y = slide.standardize(x, mean=0.8, std=0.15)
    # Steps of 1/4096 before scaling, none cut off at 0.01: five sigmas away.
    assert float(y.mean()) == pytest.approx(0.8, abs=1e-4)
    assert float(y.std()) == pytest.approx(0.15, abs=1e-4)


def test_draws_have_their_moments():
    z = random.bell(random.stream(1), 40000)
    assert float(z.mean()) == pytest.approx(0, abs=0.02)
    assert float(z.std()) == pytest.approx(1, abs=0.02)
    d = random.directions(random.stream(2), 1000)
    np.testing.assert_allclose(np.hypot(d[:, 0], d[:, 1]), 1, atol=2e-6)
    noise = random.value_noise(random.stream(3), 64, 5.0)
    assert 0 <= float(noise.min()) < 0.2
    assert 0.8 < float(noise.max()) <= 1


@pytest.mark.parametrize("size", [0, 63, 1025])
def test_size_out_of_range(size):
    with pytest.raises(cohort.PhantomError, match="from 64 to 1024"):
        cohort.draw_region(_patient_of(0), 0, image_size=size)


def test_bad_numbers(tmp_path):
    with pytest.raises(cohort.PhantomError, match="Got 0 regions and seed 1"):
        writer.write_cohort(tmp_path, regions=0, image_size=64, seed=1)
    with pytest.raises(cohort.PhantomError, match="seed -1"):
        cohort.draw_patient(-1, 0)
    with pytest.raises(cohort.PhantomError, match="region -1"):
        cohort.draw_region(_patient_of(0), -1, image_size=64)
    assert list(tmp_path.iterdir()) == []


def test_contact_sheet(tmp_path):
    path = cohort.contact_sheet(tmp_path / "sheet.png", image_size=64, seed=1)
    with Image.open(path) as opened:
        sheet = np.asarray(opened)
    # 4 pairs of 256-pixel tiles across, 3 grades down, and their margins.
    assert sheet.shape[0] > 3 * 256
    assert sheet.shape[1] > 8 * 256
    assert sheet.std() > 20


# Optical densities of hematoxylin and eosin: Ruifrok and Johnston (2001).
STAINS = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11]])


def _color_features(image: np.ndarray) -> list[float]:
    """Means and deviations of R, G, B, hematoxylin and eosin."""
    rgb = image.reshape(-1, 3).astype(np.float64)
    stains = -np.log10((rgb + 1) / 256) @ np.linalg.pinv(STAINS)
    return [f(part, axis=0) for part in (rgb, stains) for f in (np.mean, np.std)]


@pytest.mark.slow  # 8 and 30 s; test_recorded_bytes holds the generator between
@pytest.mark.parametrize(("size", "patients"), [(64, 300), (256, 900)])
def test_color_does_not_reveal_the_grade(size, patients):
    x, y = [], []
    for i in range(patients):
        p = cohort.draw_patient(11, i)
        image = cohort.draw_region(p, 0, image_size=size).image
        x.append(np.concatenate(_color_features(image)))
        y.append(p.grade)
    for model in (LogisticRegression(max_iter=3000), SVC(C=3)):
        model = make_pipeline(StandardScaler(), model)
        pred = cross_val_predict(model, np.array(x), np.array(y), cv=5)
        # Grades are balanced: the majority class has one third.
        assert np.mean(pred == y) < 1 / 3 + 0.10


def test_density_of_nuclei_alone_does_not_reveal_the_grade():
    patients = [cohort.draw_patient(12, i) for i in range(600)]
    x = np.array([[cohort.nuclei_density(p, 0)] for p in patients])
    y = np.array([p.grade for p in patients])
    tree = DecisionTreeClassifier(max_depth=3)
    assert np.mean(cross_val_predict(tree, x, y, cv=5) == y) < 0.75
    # Grade II is sparser; III and IV have the same density.
    assert x[y == 0].mean() < 0.85 * x[y == 1].mean()
    # Five standard errors of the difference of means of 200 draws over a range of
    # 1300: 5 * 1300 / sqrt(12) * sqrt(2 / 200) = 188.
    assert x[y == 2].mean() == pytest.approx(x[y == 1].mean(), abs=188)


def test_density_of_another_region():
    p = _patient_of(1)
    plain = {"image_size": 96, "artifacts": False}
    own = cohort.draw_region(p, 0, **plain)
    same = cohort.draw_region(p, 0, density=cohort.nuclei_density(p, 0), **plain)
    np.testing.assert_array_equal(own.image, same.image)
    sparse = cohort.draw_region(p, 0, density=300.0, **plain)
    # Few nuclei: less of the field is dark before the slide's normalization.
    maps = [region.tissue(p, 0, 96, density=density)[0] for density in (300.0, 3000.0)]
    assert (maps[0] > 0.6).mean() < 0.8 * (maps[1] > 0.6).mean()
    assert not np.array_equal(own.image, sparse.image)


def test_recorded_bytes():
    # Recorded on x86-64, numpy 2: another machine must draw the same.
    p = cohort.draw_patient(42, 2)
    sampled = cohort.draw_region(p, 0, image_size=96)
    digest = hashlib.sha256(sampled.image.tobytes() + sampled.mask.tobytes())
    assert digest.hexdigest()[:16] == RECORDED


RECORDED = "ce2838c0393928ff"
