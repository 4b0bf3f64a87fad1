"""Deletion and insertion of `focus`, and what stands in hidden patches.

The model is made by hand: the score of its class is the mean yellow of the patches, so
that the perfect order is known.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import ndimage

from fof_jax.evaluation import focus_scores
from fof_jax.explainers.registry import Explainer
from fof_jax.inference import focus
from fof_jax.inference.focus_cases import Case
from fof_jax.inference.focus_perturbation import blank_images
from fof_jax.types import Batch
from tests.support.yellow_detector import Additive, trained

GRADE = 2


def yellow(classifier, query):
    """Evidence of each patch of 8 pixels: what the score sums."""
    r, g, b = jnp.moveaxis(query.pixels.astype(jnp.float32), -1, 0)
    count = len(query.pixels)
    return (r + g - 2 * b).reshape(count, 4, 8, 4, 8).mean(axis=(2, 4))


EXPLAINERS = [
    Explainer("best", "best order", False, yellow),
    Explainer("worst", "worst order", False, lambda c, q: -yellow(c, q)),
    Explainer("none", "no order", True, lambda c, q: 0 * yellow(c, q)),
]


def test_an_order_by_evidence_gains_and_its_reverse_loses():
    rng = np.random.default_rng(1)
    cases = []
    for i in range(16):
        # Yellow of 0 to 60 in each patch, in no spatial order.
        strength = rng.permutation(np.linspace(0, 60, 16)).reshape(4, 4)
        pixels = np.full((32, 32, 3), 128.0)
        pixels[..., 2] -= np.kron(strength, np.ones((8, 8)))
        mask = np.ones((32, 32), bool)
        pixels = pixels.astype(np.uint8)
        cases.append(Case(f"{i}", 0, f"p{i}", GRADE, pixels, mask, ("fold_0",)))
    rows = focus.measure(trained(Additive()), cases, EXPLAINERS)
    for figure in (
        "deletion_mean",
        "insertion_mean",
        "deletion_blur",
        "insertion_blur",
    ):
        gain = {
            one.name: np.array(
                [r.figures[figure] for r in rows if r.explainer == one.name]
            )
            for one in EXPLAINERS
        }
        assert (gain["best"] > 0.01).all(), figure
        assert (gain["worst"] < -0.01).all(), figure
        assert abs(gain["none"].mean()) < 0.25 * gain["best"].mean(), figure


def test_the_gains_against_a_loop():
    """Hidden and shown patch by patch, and integrated by hand, for one image."""
    rng = np.random.default_rng(2)
    pixels = rng.integers(60, 200, (32, 32, 3)).astype(np.uint8)
    case = Case("a", 0, "p", GRADE, pixels, np.ones((32, 32), bool), ("fold_0",))
    model = trained(Additive())
    (row,) = focus.measure(model, [case], EXPLAINERS[:1])
    query = focus._query(model, [(0, case)])
    image = np.asarray(query.image, np.float64)[0]
    blank = {"mean": np.broadcast_to(image.mean(axis=(0, 1)), image.shape)}
    blank["blur"] = np.asarray(blank_images(query.image, "blur", 32), np.float64)[0]
    corners = [(8 * i, 8 * j) for i in range(4) for j in range(4)]

    @jax.jit
    def logits_of(image):
        return model.method.apply(model.folds["fold_0"], Batch(image=image)).logits

    def probability(shown, fill):
        mixed = blank[fill].copy()
        for n in shown:
            y, x = corners[n]
            mixed[y : y + 8, x : x + 8] = image[y : y + 8, x : x + 8]
        logits = np.asarray(logits_of(jnp.asarray(mixed[None], jnp.float32)))[0]
        return np.exp(logits)[GRADE] / np.exp(logits).sum()

    def areas(order, fill):
        """Of deletion and insertion, in ten steps of 16 patches."""
        counts = [round(1.6 * step) for step in range(11)]
        total = [0.0, 0.0]
        for a, b in zip(counts, counts[1:], strict=False):
            for which, chosen in enumerate((lambda n: order[n:], lambda n: order[:n])):
                ends = probability(chosen(a), fill) + probability(chosen(b), fill)
                total[which] += (b - a) / 16 * ends / 2
        return total

    evidence = np.asarray(yellow(None, query))[0].ravel()
    best = sorted(range(16), key=lambda n: -evidence[n])
    numbers = 1000 * np.arange(1, 1 + focus.RANDOM_ORDERS)
    equal = np.zeros((1, 4, 4))
    ranks = [focus_scores.order(equal, np.array([n]))[0].ravel() for n in numbers]
    for fill in ("mean", "blur"):
        deletion, insertion = areas(best, fill)
        random = np.mean([areas(np.argsort(rank), fill) for rank in ranks], axis=0)
        assert row.figures[f"deletion_{fill}"] == pytest.approx(
            random[0] - deletion, abs=1e-6
        )
        assert row.figures[f"insertion_{fill}"] == pytest.approx(
            insertion - random[1], abs=1e-6
        )


@pytest.mark.parametrize("side", [32, 64])
def test_what_stands_in_hidden_patches(side):
    """The mean color by a loop; the blur by scipy, to the width that RISE names."""
    image = np.random.default_rng(0).normal(size=(2, side, side, 3)).astype(np.float32)
    mean = np.asarray(blank_images(jnp.asarray(image), "mean", side))
    for b in range(2):
        for c in range(3):
            np.testing.assert_allclose(
                mean[b, ..., c], image[b, ..., c].mean(), atol=1e-6
            )
    sigma = side / 22
    want = image.astype(np.float64)
    for axis in (1, 2):
        want = ndimage.gaussian_filter1d(
            want, sigma, axis=axis, mode="nearest", radius=int(3 * sigma)
        )
    blur = blank_images(jnp.asarray(image), "blur", side)
    np.testing.assert_allclose(np.asarray(blur), want, atol=1e-5)
