"""The phantom as a cohort of files: read back as any table is."""

import csv

import numpy as np
from PIL import Image

from benchmarks.experiments import focus_study, phantom_table
from fof_jax.data import store
from fof_jax.data.cohort import read_cohort


def test_the_table_has_the_regions_masks_and_statuses(small_data, tmp_path):
    opened = store.open_store(small_data, "phantom")
    path = phantom_table.write(opened, tmp_path)
    biomarkers = focus_study.SETS["phantom"]["data.biomarkers"]
    assert opened.biomarkers == biomarkers
    cohort = read_cohort(path, classes=("0", "1", "2"), biomarkers=biomarkers)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert len(cohort.rows) == len(rows) == len(opened)
    for i, row in enumerate(rows):
        pixels = np.asarray(Image.open(tmp_path / row["image"]))
        np.testing.assert_array_equal(pixels, opened.native(i))
        assert (row["patient"], int(row["grade"])) == (
            opened.patients[i],
            int(opened.grades[i]),
        )
        if opened.has_mask[i]:
            mask = np.asarray(Image.open(tmp_path / row["mask"])) > 0
            np.testing.assert_array_equal(mask, opened.read_mask(i, 64))
        known = [row[name] != "" for name in biomarkers]
        assert known == opened.known[i].tolist()
