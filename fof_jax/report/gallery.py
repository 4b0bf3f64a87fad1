"""Gallery of test regions with A and M, as in the paper's Fig. 2 and 4."""

import base64
import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import UInt8
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from PIL import Image

from fof_jax.evaluation.predictions import Predictions
from fof_jax.inference.visualization import COLORMAP, masked, overlay
from fof_jax.report.fold_model import TestedFold
from fof_jax.report.style import STYLE, save_plot, wrapped

MAX_CASES = 6  # correct ones, and as many incorrect ones
SIDE = 320  # maximum side of an embedded image, in pixels


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A test region of the gallery.

    Attributes:
      image, patient: names.
      truth, predicted: class names.
      correct: whether they are equal.
      probability: of the predicted class.
      kept: fraction of patches kept by M, for the predicted class; None without M.
      panels: (label, image), the region itself first.
    """

    image: str
    patient: str
    truth: str
    predicted: str
    correct: bool
    probability: float
    kept: float | None
    panels: tuple[tuple[str, UInt8[np.ndarray, "H W 3"]], ...]

    @property
    def uris(self) -> list[tuple[str, str]]:
        """The panels as data URIs."""
        return [(label, data_uri(pixels)) for label, pixels in self.panels]


@dataclasses.dataclass(frozen=True, eq=False)
class Strip:
    """Images side by side under one caption.

    Attributes:
      caption: plain text.
      panels: (label, image).
    """

    caption: str
    panels: tuple[tuple[str, UInt8[np.ndarray, "H W 3"]], ...]

    @property
    def uris(self) -> list[tuple[str, str]]:
        """The panels as data URIs."""
        return [(label, data_uri(pixels)) for label, pixels in self.panels]


def choose(
    tested: Predictions, max_cases: int = MAX_CASES
) -> tuple[list[int], list[int]]:
    """Selects, for each true class, the most confident correct and incorrect row.

    Args:
      tested: predictions of one fold.
      max_cases: of either kind; the most confident ones are kept.

    Returns:
      Correct and incorrect rows, by class.
    """
    confidence = np.where(tested.ok, tested.prob.max(axis=1), -1.0)
    chosen = []
    for correct in (True, False):
        rows = []
        for k in range(tested.prob.shape[1]):
            at = tested.ok & (tested.y == k) & ((tested.pred == tested.y) == correct)
            if at.any():
                rows.append(int(np.argmax(np.where(at, confidence, -1.0))))
        kept = sorted(rows, key=lambda i: -confidence[i])[:max_cases]
        chosen.append([i for i in rows if i in kept])
    return chosen[0], chosen[1]


def cases(fold: TestedFold, table: Predictions) -> list[Case]:
    """Computes the maps of the regions of `choose`, correct ones first."""
    classes = fold.data.classes
    position = {name: i for i, name in enumerate(fold.data.images)}
    shown = []
    for i in [i for rows in choose(table) for i in rows]:
        row = position[table.image[i]]
        truth, predicted = classes[table.y[i]], classes[table.pred[i]]
        result = fold.model.explain(fold.pixels(row), predicted)
        panels = [
            ("region", result.pixels),
            (f"A of {predicted} (predicted)", overlay(result.pixels, result.A)),
            (
                f"patches kept for {predicted}",
                masked(result.pixels, result.keep, patch=result.patch),
            ),
        ]
        if truth != predicted:
            of_truth = fold.model.explain(fold.pixels(row), truth).A
            panels.append((f"A of {truth} (true)", overlay(result.pixels, of_truth)))
        structures = fold.data.read_mask(row, fold.model.image_size)
        if structures is not None and structures.any():
            panels.append(
                ("annotated structures", masked(result.pixels, structures, patch=1))
            )
        shown.append(
            Case(
                image=table.image[i],
                patient=table.patient[i],
                truth=truth,
                predicted=predicted,
                correct=truth == predicted,
                probability=float(table.prob[i, table.pred[i]]),
                kept=float(result.keep.mean()),
                panels=tuple(panels),
            )
        )
    return shown


def data_uri(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """Downscales to at most `SIDE` pixels; PNG for small images, else JPEG."""
    image = Image.fromarray(pixels)
    small = max(image.size) <= SIDE // 2
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if small else image.save(buffer, "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def gradient() -> str:
    """The color map as a CSS gradient from A = 0 to A = 1."""
    stops = matplotlib.colormaps[COLORMAP](np.linspace(0, 1, 9))
    colors = [matplotlib.colors.to_hex(one) for one in stops]
    return f"linear-gradient(to right, {', '.join(colors)})"


def plot(shown: Sequence[Case], folder: Path) -> None:
    """Writes gallery.pdf and gallery.svg: one row per case."""
    columns = max(len(case.panels) for case in shown)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(1.9 * columns + 0.8, 2.3 * len(shown)), layout="constrained"
        )
        grid = figure.subplots(len(shown), columns, squeeze=False)
        for row, case in zip(grid, shown, strict=True):
            for axes in row:
                axes.set_axis_off()
            for axes, (label, pixels) in zip(row, case.panels, strict=False):
                axes.imshow(pixels, interpolation="nearest")
                axes.set_title(wrapped(label, 22), fontsize=8)
            row[0].set_title(
                f"true {wrapped(case.truth, 18, 1)}\n"
                f"predicted {wrapped(case.predicted, 14, 1)} ({case.probability:.2f})",
                fontsize=8,
            )
        scale = ScalarMappable(cmap=COLORMAP)  # of 0 to 1
        bar = figure.colorbar(scale, ax=grid[:, 1], shrink=0.5, aspect=40)
        bar.set_label("A (0 low, 1 high)", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        save_plot(figure, name="gallery", title="Gallery", caption="", folder=folder)
