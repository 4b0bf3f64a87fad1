"""What `data check` says of tables that are legal but odd."""

import io

import numpy as np
import pytest
from PIL import Image, ImageFilter

from fof_jax.data.near_duplicates import near_duplicates, perceptual_hash, thumbnail
from tests.support.cohort_files import (
    CLASSES,
    SHARED,
    rows_of,
    write_cohort_files,
    write_table,
)
from tests.support.data_verb import call, config_for

ROI = SHARED / "data/tcga_glioma_roi"


def tissue(seed, side=96):
    """Smooth noise of all scales, as tissue has."""
    rng = np.random.default_rng(seed)
    total = np.zeros((side, side, 3))
    for cells in (3, 6, 12, 48):
        coarse = rng.integers(0, 256, (cells, cells, 3), dtype=np.uint8)
        fine = Image.fromarray(coarse).resize((side, side), Image.Resampling.BICUBIC)
        total += np.asarray(fine) / 4
    return Image.fromarray(total.astype(np.uint8))


def copies(image):
    """The same image as other people save it."""
    stream = io.BytesIO()
    image.save(stream, "JPEG", quality=50)
    turned = image.transpose(Image.Transpose.ROTATE_90)
    return {
        "itself": image,
        "JPEG": Image.open(stream).convert("RGB"),
        "enlarged": image.resize((image.width + 11, image.height + 11)),
        "blurred": image.filter(ImageFilter.GaussianBlur(1)),
        "brighter": image.point(lambda v: min(255, int(v * 1.15))),
        "turned": turned,
        "mirrored": turned.transpose(Image.Transpose.FLIP_LEFT_RIGHT),
    }


def thumbs_of(images, folder):
    paths = [folder / f"{k}.png" for k in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        image.save(path)
    return np.stack([thumbnail(path) for path in paths])


def test_copies_of_a_image_are_found_and_others_are_not(tmp_path):
    made = list(copies(tissue(0)).values())
    others = [tissue(seed) for seed in range(1, 60)]
    thumbs = thumbs_of([*made, *others], tmp_path)
    found = near_duplicates(thumbs, tuple(map(str, range(len(thumbs)))))
    wanted = [(i, j) for i in range(len(made)) for j in range(i + 1, len(made))]
    assert found == wanted
    # Of one patient nothing is said.
    assert near_duplicates(thumbs, ("P",) * len(thumbs)) == []


def test_flat_images_are_not_duplicates(tmp_path):
    white = [Image.new("RGB", (40, 40), (250 + k,) * 3) for k in range(3)]
    assert near_duplicates(thumbs_of(white, tmp_path), ("a", "b", "c")) == []


def test_the_hash_is_a_loop_over_cosines(tmp_path):
    thumb = thumbs_of([tissue(3)], tmp_path)[0].astype(float)
    low = np.zeros((8, 8))
    for u in range(8):
        for v in range(8):
            for r in range(32):
                for c in range(32):
                    wave = np.cos(np.pi * u * (r + 0.5) / 32)
                    low[u, v] += thumb[r, c] * wave * np.cos(np.pi * v * (c + 0.5) / 32)
    low[0, 0] = 0
    bits = (low > np.median(low)).reshape(-1)
    ours = perceptual_hash(thumb[None].astype(np.float32))
    found = np.unpackbits(ours.view(np.uint8)).astype(bool)
    assert (found != bits).sum() <= 1  # the median itself may round either way


@pytest.mark.skipif(not ROI.exists(), reason=f"no real regions in {ROI}")
def test_real_regions_and_their_copies(tmp_path):
    regions = [
        Image.open(p).convert("RGB").reduce(8) for p in sorted(ROI.glob("TCGA*"))
    ]
    assert near_duplicates(thumbs_of(regions, tmp_path), tuple("abcde")) == []
    for region in regions[:2]:
        made = list(copies(region).values())
        thumbs = thumbs_of([*made, *regions[2:]], tmp_path)
        found = near_duplicates(thumbs, tuple(map(str, range(len(thumbs)))))
        assert len(found) == 7 * 6 // 2


def test_check_says_what_is_odd(tmp_path):
    write_cohort_files(tmp_path, 24)
    rows = rows_of(24)
    for row in rows[2:]:
        row["idh"] = ""
    rows[3]["grade"] = "IV"  # its patient's other image is III
    for row in rows[8:]:
        row["grade"] = "III" if row["grade"] == "II" else row["grade"]
    image = tissue(5)
    image.save(tmp_path / rows[6]["image"])
    copies(image)["turned"].save(tmp_path / rows[20]["image"])
    write_table(tmp_path, rows)
    output = call("check", config_for(tmp_path))
    warnings = [line for line in output.splitlines() if line.startswith("warning")]
    for part in (
        "1 patients have images of more than one grade: P001 (III, IV)",
        "Fewer patients than the 3 folds in class II: 2",
        "Known for under 10% of the images: idh (8.3%)",
        "1 pairs of images of different patients look the same: img/006.png (P003) "
        "and img/020.png (P010)",
    ):
        assert any(part in line for line in warnings), part
    assert "no errors" in output
    assert not (tmp_path / "data").exists()


def test_check_is_silent_about_an_ordinary_cohort(tmp_path):
    write_cohort_files(tmp_path, 24)
    assert "warning" not in call("check", config_for(tmp_path))


def test_classes_without_images_and_cohorts_without_biomarkers_are_said(tmp_path):
    write_cohort_files(tmp_path, 24)
    config = config_for(tmp_path, classes=(*CLASSES, "V"), biomarkers=())
    output = call("check", config)
    assert "No image has the grade V" in output
    assert "no biomarkers: L_MCA, Eq. (5), is off" in output
