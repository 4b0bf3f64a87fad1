"""The study on frozen patches: features, masks and folds of its bags, and its rates."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from benchmarks.experiments import bag_study, bag_study_table, patch_study
from benchmarks.experiments import patch_study_data as data
from fof_jax.configs import cohort
from fof_jax.data import metadata, splits
from fof_jax.data.cohort import read_cohort
from fof_jax.inference import features
from fof_jax.models import vit
from fof_jax.training import weights
from fof_jax.types import DatasetInfo, Variables
from tests.support.cohort_files import BIOMARKERS, CLASSES, write_cohort_files

SIDE, PATCH = 20, 4


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """A folder of `import`: a small ViT with a class token, random weights."""
    model = vit.ViT(
        size=vit.SIZES["nano"], patch=PATCH, image_size=(SIDE, SIDE), class_token=True
    )
    params = model.init(jax.random.key(0), jnp.zeros((1, SIDE, SIDE, 3)))["params"]
    described = {
        "variant": f"nano/{PATCH}",
        "image_size": [SIDE, SIDE],
        "grid": [SIDE // PATCH, SIDE // PATCH],
        "layer_norm_eps": model.layer_norm_eps,
        "class_token": True,
    }
    folder = tmp_path_factory.mktemp("encoder") / "imported"
    about = {"method": "encoder", "encoder": described}
    weights.write(folder, Variables({"encoder": params}, {}), about)
    return folder


@pytest.fixture
def config(tmp_path, encoder):
    config = cohort.get_config()
    config.update_from_flattened_dict(
        {
            "data.table": str(write_cohort_files(tmp_path, 30)),
            "data.classes": CLASSES,
            "data.biomarkers": BIOMARKERS,
            "data.image_size": SIDE,
            "init.checkpoint": str(encoder),
        }
    )
    return config


def test_bags_are_the_images(config, encoder, tmp_path):
    """Their means are what `features` gives, and their folds those of training."""
    bags = data.read(config, tmp_path / "cache")
    assert bags.values[0].features.shape[:1] == ((SIDE // PATCH) ** 2,)
    assert bags.values[0].coords[:5].tolist() == [
        [0, 0],
        [1, 0],
        [2, 0],
        [3, 0],
        [4, 0],
    ]
    pooled = features.read_encoder(encoder, tile=SIDE)
    rows = read_cohort(config.data.table, classes=CLASSES, biomarkers=BIOMARKERS)
    tiles = [np.asarray(Image.open(row.image)) for row in rows.rows]  # of SIDE pixels
    expected = pooled.encode(np.stack(tiles))
    means = [one.features.mean(axis=0) for one in bags.values]
    np.testing.assert_allclose(means, expected, rtol=1e-4, atol=1e-5)

    folds = splits.make_splits(metadata.from_cohort(rows), seed=config.seed).folds
    for number, (_, tested) in enumerate(folds):
        assert np.flatnonzero(bags.fold == number).tolist() == tested.tolist()
    assert bags.patient.tolist() == [i // 2 for i in range(30)]
    assert not np.any(bags.masks)  # the table has none

    (cached,) = (tmp_path / "cache").iterdir()
    before = cached.stat().st_mtime_ns
    again = data.read(config, tmp_path / "cache")
    np.testing.assert_array_equal(again.values[7].features, bags.values[7].features)
    config.data.color = False
    gray = data.read(config, tmp_path / "cache")
    assert cached.stat().st_mtime_ns == before
    assert len(list((tmp_path / "cache").iterdir())) == 2
    assert np.abs(gray.values[7].features - bags.values[7].features).max() > 0.01


def test_a_patch_is_masked_if_half_of_it_is(tmp_path):
    mask = np.zeros((8, 8), np.uint8)
    mask[:2, :4] = 255  # half of the first patch
    mask[:4, 5:7] = 255  # half of the second
    mask[4, :4] = 255  # a quarter of the third
    Image.fromarray(mask).save(tmp_path / "mask.png")
    patches = data.patch_mask(tmp_path / "mask.png", 8, 2)
    assert patches.tolist() == [True, True, False, False]
    assert data.patch_mask(None, 8, 2).tolist() == [False] * 4


def write_cell(folder, row, right):
    """Twelve images, of which the first `right` are graded right."""
    y = [i % 3 for i in range(12)]
    prob = [
        [0.98 if k == (grade if i < right else (grade + 1) % 3) else 0.01
         for k in range(3)]
        for i, grade in enumerate(y)
    ]  # fmt: skip
    numbers = list(range(12))
    cell = {"row": row, "seed": 42, "fold": 0, "rows": numbers, "patient": numbers}
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / bag_study_table.name_of(row, 42, 0)
    path.write_text(json.dumps(cell | {"y": y, "prob": prob}))
    return path


def test_the_best_rate_of_each_family(tmp_path):
    for rate, right in zip(patch_study.RATES, (9, 12, 6, 3, 2, 1), strict=True):
        write_cell(tmp_path, patch_study.rate_name("baseline", rate), right)
        last = write_cell(tmp_path, patch_study.rate_name("FoF", rate), 12 - right)
    for row in patch_study.ROWS:
        expected = 1e-3 if row in patch_study.WITHOUT_VIEWS else 1.6e-2
        assert patch_study.best_rate(tmp_path, patch_study.family_of(row)) == expected
    last.unlink()
    with pytest.raises(FileNotFoundError, match="Run with --choose first"):
        patch_study.best_rate(tmp_path, "FoF")


@pytest.mark.parametrize("which", patch_study.EPOCHS)
def test_every_row_has_a_method(which):
    info = DatasetInfo(bag_study.CLASSES, ("idh",), ())
    for row, (argument, _) in patch_study.ROWS.items():
        fields = patch_study.cell_fields(which, row, 1e-3, 64)
        config = bag_study.Runner(argument, fields, info).config
        longer = 3 if "equal compute" in row else 1
        assert config.epochs == longer * patch_study.EPOCHS[which]
        assert (config.views.warmup_epochs > 0) == (row in patch_study.RAMP)
        assert (config.views.fill == "drop") == ("packed" in row)
