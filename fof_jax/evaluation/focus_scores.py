"""Scores of a map against a mask, and of a map against another map.

Pure functions of arrays, beside `localization.inside` and `curves`. Maps are
nonnegative; masks are True on structures.
"""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

SEED = 4  # of the order among equal patches


def pointing(
    evidence: Float[np.ndarray, "B h w"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Pointing game of patches: whether the structure fills half of the highest one.

    `localization.pointing` asks for the highest pixel of the enlarged map, which for a
    patch at the border lies on the border itself: rules that know nothing miss central
    structures more often than by chance.

    Args:
      evidence: per patch; what is not positive is no evidence.
      mask: True on structures.

    Returns:
      1 or 0; with several highest patches, the fraction of them that count. 0 where no
      patch has evidence.

    Source: Zhang et al., Top-down neural attention by excitation backprop (2018), for
    maps of patches.
    """
    b, h, w = evidence.shape
    p, q = mask.shape[1] // h, mask.shape[2] // w
    cover = mask.reshape(b, h, p, w, q).mean(axis=(2, 4))
    highest = evidence.max(axis=(1, 2), keepdims=True)
    top = (evidence == highest) & (evidence > 0)
    hit = (top & (cover >= 0.5)).sum(axis=(1, 2))
    return hit / np.maximum(top.sum(axis=(1, 2)), 1)


def iou_at_own_area(
    A: Float[np.ndarray, "B H W"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Intersection over union of the mask and the n highest pixels, n the mask's area.

    Pixels that tie at the cut share what is left of n, so that no order among them
    decides; a constant map scores what a random choice of n pixels would on average.

    Returns:
      0 … 1; NaN where the mask is empty.
    """
    flat, inside = A.reshape(len(A), -1), mask.reshape(len(A), -1)
    scores = np.full(len(A), np.nan)
    for b, n in enumerate(inside.sum(axis=1)):
        if not n:
            continue
        cut = np.partition(flat[b], -n)[-n]
        above, tied = flat[b] > cut, flat[b] == cut
        chosen = above + tied * ((n - above.sum()) / tied.sum())
        both = chosen[inside[b]].sum()
        scores[b] = both / (2 * n - both)
    return scores


def average_precision(
    A: Float[np.ndarray, "B H W"], mask: Bool[np.ndarray, "B H W"]
) -> Float[np.ndarray, " B"]:
    """Average precision of pixels: A as their score, the mask as the truth.

    The sum over thresholds of precision times the increase of recall; pixels of equal
    score enter together. A constant map scores the mask's area.

    Returns:
      0 … 1; NaN where the mask is empty.
    """
    flat, inside = A.reshape(len(A), -1), mask.reshape(len(A), -1)
    scores = np.full(len(A), np.nan)
    for b in np.flatnonzero(inside.any(axis=1)):
        order = np.argsort(-flat[b], kind="stable")
        ranked, hit = flat[b][order], inside[b][order]
        last = np.flatnonzero(np.append(ranked[1:] != ranked[:-1], True))
        hits = np.cumsum(hit)[last]
        gained = np.diff(hits, prepend=0)
        scores[b] = (gained * hits / (last + 1)).sum() / hits[-1]
    return scores


def rank_correlation(
    a: Float[np.ndarray, "B ..."], b: Float[np.ndarray, "B ..."]
) -> Float[np.ndarray, " B"]:
    """Spearman's correlation of two maps of each image; ties have their mean rank.

    Returns:
      -1 … 1; NaN where a map is constant.
    """
    ranks = [np.stack([_mean_ranks(one.ravel()) for one in maps]) for maps in (a, b)]
    x, y = (r - r.mean(axis=1, keepdims=True) for r in ranks)
    spread = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.where(
        spread > 0, (x * y).sum(axis=1) / np.where(spread > 0, spread, 1), np.nan
    )


def order(
    evidence: Float[np.ndarray, "B h w"], index: Int[np.ndarray, " B"]
) -> Int[np.ndarray, "B h w"]:
    """Rank of each patch, 0 the highest; equal patches in a random order.

    Args:
      evidence: per patch.
      index: number of each image, which keys that order.
    """
    ranks = np.empty(evidence.shape, np.int64)
    for b, i in enumerate(index):
        flat = evidence[b].ravel()
        among_equals = np.random.default_rng([SEED, int(i)]).permutation(flat.size)
        positions = np.lexsort((among_equals, -flat))
        ranks[b].flat[positions] = np.arange(flat.size)
    return ranks


def _mean_ranks(values: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    _, inverse, count = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(count) - 1
    return (last - (count - 1) / 2)[inverse]


def agreement(maps: Sequence[np.ndarray]) -> float:
    """Mean rank correlation over the pairs of folds' maps; NaN with fewer than two."""
    pairs = [
        rank_correlation(a[None], b[None])[0]
        for k, a in enumerate(maps)
        for b in maps[:k]
    ]
    known = [value for value in pairs if np.isfinite(value)]
    return float(np.mean(known)) if known else np.nan
