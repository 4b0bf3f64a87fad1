"""What a model keeps of its training images, against a plain loop over their files."""

import hashlib
import io

import numpy as np
from PIL import Image

from fof_jax.data import images, store, training_data


def by_hand(opened, rows):
    """Lowest and highest mean color and fraction of tissue, and names of the images."""
    figures, names = [], set()
    for row in rows:
        pixels = np.asarray(Image.open(io.BytesIO(opened.encoded(row))))
        colors = [float(pixels[..., k].mean()) for k in range(3)]
        chroma = pixels.max(axis=2).astype(int) - pixels.min(axis=2)
        figures.append([*colors, float((chroma > 15).mean())])
        text = str(pixels.shape).encode() + pixels.tobytes()
        names.add(hashlib.sha256(text).hexdigest()[:16])
    return np.min(figures, axis=0), np.max(figures, axis=0), names


def test_folds_measure_each_image_once(small_data, monkeypatch):
    opened = store.open_store(small_data, "phantom")
    decode, read = images.decode, []

    def counted(encoded):
        read.append(encoded)
        return decode(encoded)

    monkeypatch.setattr(images, "decode", counted)
    for rows in (np.arange(6, 18), np.arange(12), np.arange(6, 18)):
        measured = training_data.measure(opened, rows)
        low, high, names = by_hand(opened, rows.tolist())
        np.testing.assert_allclose(measured.low, low, rtol=1e-12)
        np.testing.assert_allclose(measured.high, high, rtol=1e-12)
        assert measured.digests == names
    assert len(read) == 18
    again = store.open_store(small_data, "phantom")  # nothing is known of another store
    training_data.measure(again, np.arange(6))
    assert len(read) == 24
