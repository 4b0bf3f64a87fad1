"""Builds a cell graph from an H&E region, or from a label map of its nuclei.

Hematoxylin is separated by color deconvolution, thresholded and divided into nuclei by
a watershed; each nucleus becomes a node with contour and texture columns, joined to its
nearest neighbors. A label map of any segmenter takes the place of the first part.
scikit-image (the extra `graphs`) and SciPy are imported when called.
"""

from types import ModuleType
from typing import Annotated

import numpy as np
from jaxtyping import Bool, Float32, Int32
from PIL import Image

from fof_jax.data.graphs import contours, record

NEIGHBORS = 4
MICROMETERS = 0.5  # per pixel, for which the pixel counts below are
CROP = 64  # pixels on a side of the texture window around a centroid
GRAY_LEVELS = 32
COLUMNS = record.CONTOUR + record.TEXTURE


class NoNucleusError(ValueError):
    """A region in which no nucleus was found."""


def _scikit_image() -> ModuleType:
    try:
        import skimage.color
        import skimage.feature
        import skimage.filters
        import skimage.measure
        import skimage.morphology
        import skimage.segmentation
    except ImportError as error:
        raise ValueError(
            "cell graphs from images require scikit-image, which is not installed. "
            "Run: pip install 'fof-jax[graphs]'"
        ) from error
    return skimage


def segment(
    rgb: Annotated[np.ndarray, "uint8 [H, W, 3]"],
    *,
    blur: float = 2.0,
    background: int = 129,
    spacing: int = 9,
    smallest: int = 60,
    largest: int = 2000,
) -> Int32[np.ndarray, "H W"]:
    """Labels nuclei by hematoxylin, a local threshold and a watershed.

    Args:
      rgb: the region. The pixel counts below are for 0.5 micrometers per pixel.
      blur: standard deviation of the blur of the hematoxylin channel, in pixels.
      background: side of the window whose mean a nucleus must exceed.
      spacing: smallest distance between the centers of two nuclei.
      smallest, largest: areas that are kept, in pixels.

    Returns:
      0 for background, 1 … n for nuclei.

    Raises:
      ValueError: scikit-image is not installed, or the image is not uint8 RGB.

    Source: methods/clat_pathgcn.md, "Cell graphs from any image".
    """
    from scipy import ndimage

    _check_rgb(rgb)
    skimage = _scikit_image()
    stain = skimage.filters.gaussian(skimage.color.rgb2hed(rgb)[..., 0], blur)
    low, high = np.percentile(stain, (1, 99))
    if high <= low:  # one color: nothing to threshold
        return np.zeros(rgb.shape[:2], np.int32)
    stain = stain.clip(low, high)
    # Staining varies across a region, so the local mean is a second threshold.
    local = ndimage.uniform_filter(stain, background) + 0.05 * (high - low)
    nuclei = stain > np.maximum(local, max(skimage.filters.threshold_otsu(stain), 0))
    nuclei = skimage.morphology.opening(nuclei, skimage.morphology.disk(2))
    nuclei = ndimage.binary_fill_holes(nuclei)
    depth = skimage.filters.gaussian(ndimage.distance_transform_edt(nuclei), 1)
    components, _ = ndimage.label(nuclei)
    centers = skimage.feature.peak_local_max(
        depth, min_distance=spacing, labels=components, exclude_border=False
    )
    markers = np.zeros(rgb.shape[:2], np.int32)
    markers[centers[:, 0], centers[:, 1]] = np.arange(1, len(centers) + 1)
    labels = skimage.segmentation.watershed(-depth, markers, mask=nuclei)
    area = np.bincount(labels.ravel(), minlength=len(centers) + 1)
    keep = (smallest <= area) & (area <= largest)
    keep[0] = False
    return (np.cumsum(keep) * keep).astype(np.int32)[labels]


def columns(
    rgb: Annotated[np.ndarray, "uint8 [H, W, 3]"],
    labels: Annotated[np.ndarray, "int [H, W]"],
) -> tuple[Float32[np.ndarray, "n 12"], Float32[np.ndarray, "n 2"]]:
    """The 8 contour and 4 texture columns of each nucleus, and its centroid.

    Args:
      rgb: the region.
      labels: 0 for background, positive for nuclei; any numbering.

    Returns:
      x by `record.CONTOUR` and `record.TEXTURE`, in pixels and degrees, in ascending
      order of labels; centroids as x and y in pixels.

    Raises:
      ValueError: scikit-image is not installed, or image and labels do not fit.

    Source: methods/clat_pathgcn.md, "The distributed .pt graphs", key x.
    """
    _check_rgb(rgb)
    _check_labels(rgb, labels)
    skimage = _scikit_image()
    gray = (skimage.color.rgb2gray(rgb) * 255).astype(np.int64)
    gray //= 256 // GRAY_LEVELS
    labels = contours.number_labels(labels)
    shape = contours.measure(labels)
    length = np.maximum(shape.perimeter, 1.0)  # 0 for a single pixel
    convex = [
        max(nucleus.area_convex, 1.0) for nucleus in skimage.measure.regionprops(labels)
    ]
    contour = np.stack(
        [
            shape.short,
            shape.long,
            shape.angle,
            shape.area,
            length,
            shape.eccentricity,
            length / (2 * np.sqrt(np.pi * shape.area)),
            shape.area / np.array(convex).reshape(-1),
        ],
        axis=1,
    )
    texture = np.array([_texture(gray, y, x) for x, y in shape.centroid])
    texture = texture.reshape(len(contour), len(record.TEXTURE))
    x = np.concatenate([contour, texture], axis=1)
    return x.astype(np.float32), shape.centroid.astype(np.float32)


def _check_labels(rgb: np.ndarray, labels: np.ndarray) -> None:
    if labels.shape != rgb.shape[:2] or labels.min(initial=0) < 0:
        raise ValueError(
            f"label map: shape {labels.shape} and smallest label "
            f"{labels.min(initial=0)}, expected {rgb.shape[:2]} and 0 for background. "
            "Pass a map of the same region at the same size."
        )


def _check_rgb(rgb: np.ndarray) -> None:
    if rgb.dtype != np.uint8 or rgb.ndim != 3 or rgb.shape[-1] != 3:
        raise ValueError(
            f"image: {rgb.dtype} of shape {rgb.shape}, expected uint8 [H, W, 3]."
        )


def _texture(gray: np.ndarray, row: float, column: float) -> tuple[float, ...]:
    """Dissimilarity, homogeneity, energy and ASM of pairs of horizontal neighbors."""
    top, left = (
        int(np.clip(round(center) - CROP // 2, 0, max(side - CROP, 0)))
        for center, side in zip((row, column), gray.shape, strict=True)
    )
    window = gray[top : top + CROP, left : left + CROP]
    pairs = window[:, :-1] * GRAY_LEVELS + window[:, 1:]
    counts = np.bincount(pairs.ravel(), minlength=GRAY_LEVELS**2)
    p = counts.reshape(GRAY_LEVELS, GRAY_LEVELS) / max(pairs.size, 1)
    level = np.arange(GRAY_LEVELS)
    difference = np.abs(level[:, None] - level)
    asm = float((p**2).sum())
    return (
        float((p * difference).sum()),
        float((p / (1 + difference**2)).sum()),
        asm**0.5,
        asm,
    )


def nearest_neighbors(
    centroid: Float32[np.ndarray, "n 2"], *, neighbors: int = NEIGHBORS
) -> Int32[np.ndarray, "2 E"]:
    """Exact nearest neighbors in both directions, sorted, without loops or repeats.

    Args:
      centroid: positions.
      neighbors: per node; fewer where there are not as many other nodes.

    Returns:
      Edges, source row first. A node may have more than `neighbors` edges, because an
      edge exists where either end is near to the other.
    """
    from scipy.spatial import cKDTree

    nodes = len(centroid)
    if nodes < 2:
        return np.zeros((2, 0), np.int32)
    _, near = cKDTree(centroid).query(centroid, k=min(neighbors + 1, nodes))
    edges: set[tuple[int, int]] = set()
    for node, row in enumerate(near):
        # A node is its own neighbor, but not always the first: centroids can coincide.
        for other in [j for j in row.tolist() if j != node][:neighbors]:
            edges |= {(node, other), (other, node)}
    return np.array(sorted(edges), np.int32).T


def largest_component(
    edge_index: Int32[np.ndarray, "2 E"], nodes: int
) -> Bool[np.ndarray, " n"]:
    """True for the nodes of the largest connected component, the first of equals."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ones = np.ones(edge_index.shape[1])
    graph = coo_array((ones, (edge_index[0], edge_index[1])), shape=(nodes, nodes))
    _, component = connected_components(graph, directed=False)
    return component == np.bincount(component).argmax()


def build(
    rgb: Annotated[np.ndarray, "uint8 [H, W, 3]"],
    labels: Annotated[np.ndarray, "int [H, W]"] | None = None,
    *,
    neighbors: int = NEIGHBORS,
    mpp: float = MICROMETERS,
) -> record.CellGraph:
    """The cell graph of a region.

    Args:
      rgb: the region.
      labels: nuclei by any segmenter; None segments the region here.
      neighbors: see `nearest_neighbors`.
      mpp: micrometers per pixel of the region, which is brought to 0.5.

    Returns:
      The largest connected component, with 12 columns at 0.5 micrometers per pixel;
      centroids are in pixels of the region as given. Further columns are added by
      `record.append_columns` and `record.append_tokens`.

    Raises:
      NoNucleusError: no nucleus was found.
      ValueError: as `segment` and `columns`.
    """
    if labels is not None:
        _check_labels(rgb, labels)
    scaled, labels = rescale(rgb, labels, mpp=mpp)
    x, centroid = columns(scaled, segment(scaled) if labels is None else labels)
    if not len(x):
        raise NoNucleusError(
            "cell graph: no nucleus in the region. Leave the region out, or pass a "
            "label map of another segmenter; pathgcn.mpp is micrometers per pixel, "
            f"here {mpp:g}."
        )
    height, width = rgb.shape[:2]
    factor = np.array([scaled.shape[1] / width, scaled.shape[0] / height])
    centroid = ((centroid + 0.5) / factor - 0.5).astype(np.float32)
    edge_index = nearest_neighbors(centroid, neighbors=neighbors)
    keep = largest_component(edge_index, len(x))
    position = np.cumsum(keep) - 1
    edge_index = position[edge_index[:, keep[edge_index[0]]]]
    return record.create(x[keep], edge_index, centroid[keep], COLUMNS)


def rescale(
    rgb: Annotated[np.ndarray, "uint8 [H, W, 3]"],
    labels: Annotated[np.ndarray, "int [H, W]"] | None,
    *,
    mpp: float,
) -> tuple[np.ndarray, np.ndarray | None]:
    """A region and its label map at 0.5 micrometers per pixel.

    Args:
      rgb, labels: as in `build`.
      mpp: micrometers per pixel; within 2% of 0.5 nothing is resampled.
    """
    factor = mpp / MICROMETERS
    if abs(factor - 1) < 0.02:
        return rgb, labels
    height, width = (max(1, round(side * factor)) for side in rgb.shape[:2])
    scaled = Image.fromarray(rgb).resize((width, height), Image.Resampling.BICUBIC)
    if labels is None:
        return np.asarray(scaled), None
    row, column = (
        np.minimum((np.arange(new) + 0.5) * old / new, old - 1).astype(int)
        for new, old in zip((height, width), labels.shape, strict=True)
    )
    return np.asarray(scaled), labels[np.ix_(row, column)]
