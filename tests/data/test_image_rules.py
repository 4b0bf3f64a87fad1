"""One set of rules for files, PIL images and arrays: the same pixels, or refused."""

import io

import numpy as np
import pytest
from PIL import Image, ImageOps

import fof_jax
from fof_jax.data import image_rules, images
from tests.support.bad_images import BAD_IMAGES
from tests.support.cohort_files import pixels


def rgba():
    alpha = np.full((20, 20), 255, np.uint8)
    alpha[:8], alpha[8:12] = 0, 128
    return np.dstack([pixels(3), alpha])


def on_white(array):
    alpha = array[..., 3:].astype(float) / 255
    return array[..., :3] * alpha + 255 * (1 - alpha)


def save(path, array, mode=None, **more):
    image = Image.fromarray(array)
    (image.convert(mode) if mode else image).save(path, **more)
    return path


@pytest.mark.parametrize("mode", ["RGB", "L", "RGBA"])
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_a_file_and_its_pil_image_have_the_same_pixels(tmp_path, mode, suffix):
    if (mode, suffix) == ("RGBA", "jpg"):
        pytest.skip("JPEG has no transparency")
    path = save(tmp_path / f"a.{suffix}", pixels(1), mode)
    found = images.read(path)
    for opened in (Image.open(path), Image.open(io.BytesIO(path.read_bytes()))):
        np.testing.assert_array_equal(images.read(opened), found)
    loaded = Image.open(path)
    loaded.load()
    np.testing.assert_array_equal(images.read(loaded), found)
    np.testing.assert_array_equal(images.read(loaded.copy()), found)
    np.testing.assert_array_equal(images.read(found), found)
    if mode == "RGB" and suffix != "jpg":
        np.testing.assert_array_equal(found, pixels(1))


def test_transparency_is_white_of_files_and_pil_images(tmp_path):
    """Tolerance 1 level: the composite is rounded."""
    array = rgba()
    for suffix in ("png", "tif"):
        path = save(tmp_path / f"a.{suffix}", array)
        for image in (path, Image.open(path), Image.fromarray(array)):
            np.testing.assert_allclose(images.read(image), on_white(array), atol=1)


@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_transparent_color_is_white(tmp_path, mode):
    array = np.array(Image.fromarray(pixels(2)).convert(mode))
    array[:5] = 0
    array[5:][array[5:] == 0] = 1
    key = (0, 0, 0) if mode == "RGB" else 0
    path = save(tmp_path / "a.png", array, transparency=key)
    expected = np.array(Image.fromarray(array).convert("RGB"))
    expected[:5] = 255
    for image in (path, Image.open(path)):
        np.testing.assert_array_equal(images.read(image), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["tif", "jpg", "png"])
def test_orientation_tags_are_not_applied(tmp_path, orientation, suffix):
    exif = Image.Exif()
    exif[274] = orientation
    array = pixels(4, 16, 24)
    path = save(tmp_path / f"a.{suffix}", array, exif=exif)
    header = images.check_region(path)
    assert (header.height, header.width) == (16, 24)
    plain = images.read(save(tmp_path / f"b.{suffix}", array))
    for image in (path, Image.open(path)):
        np.testing.assert_array_equal(images.read(image), plain)
    # Who wants it applied applies it.
    turned = ImageOps.exif_transpose(Image.open(path))
    assert (images.read(turned).shape == plain.shape) == (orientation < 5)


@pytest.mark.parametrize("name", [n for n in BAD_IMAGES if n != "one bit flipped"])
def test_what_is_refused_as_a_file_is_refused_as_a_pil_image(tmp_path, name):
    make, kind = BAD_IMAGES[name]
    path = tmp_path / "a.png"
    make(path)
    with pytest.raises(images.ImageError) as caught:
        images.read(path)
    assert caught.value.kind == kind
    for load in (False, True):
        try:
            with Image.open(path) as image:
                if load:
                    image.load()
                with pytest.raises(images.ImageError) as caught:
                    images.read(image)
        except (OSError, SyntaxError):
            continue  # PIL refuses it
        assert caught.value.kind == kind


@pytest.mark.parametrize("mode", ["LA", "PA", "P", "CMYK", "I", "F", "HSV", "YCbCr"])
def test_other_modes_in_memory_are_refused(mode):
    image = Image.new(mode, (8, 8))
    with pytest.raises(images.ImageError, match=f"mode {mode} .*convert it"):
        images.read(image)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((8, 8), np.uint8),
        np.zeros((8, 8, 4), np.uint8),
        np.zeros((8, 8, 3), np.uint16),
        np.zeros((8, 8, 3)),
        np.zeros((0, 8, 3), np.uint8),
    ],
)
def test_other_arrays_are_refused(array):
    with pytest.raises(images.ImageError, match="image: an array"):
        image_rules.check_array(array)  # read's annotation names the shape


def test_predict_grades_a_pil_image_as_its_file(small_run, small_pictures, tmp_path):
    """Tolerance 1e-6: the batches differ."""
    model = fof_jax.load(small_run)
    array = next(iter(small_pictures.values()))
    alpha = np.full(array.shape[:2], 255, np.uint8)
    alpha[:20] = 0
    path = save(tmp_path / "a.png", np.dstack([array, alpha]))
    white = array.copy()
    white[:20] = 255
    grades = [model.predict([x]).prob for x in (path, Image.open(path), white)]
    np.testing.assert_allclose(grades[1], grades[0], atol=1e-6)
    np.testing.assert_allclose(grades[2], grades[0], atol=1e-6)
    with pytest.raises(ValueError, match="mode I;16 with"):
        model.predict([Image.fromarray(np.zeros((64, 64), np.uint16))])
