"""The paper's Fig. 2 and 4: regions, their map A and the patches that M keeps."""

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
from fof_jax.inference.visualization import COLOURS, masked, overlay
from fof_jax.report.fold_model import Tested
from fof_jax.report.style import STYLE, finish, wrapped

MOST = 6  # right cases, and wrong ones
SIDE = 320  # pixels of an embedded picture at most


@dataclasses.dataclass(frozen=True, eq=False)
class Case:
    """A tested region.

    Attributes:
      image, patient: its names.
      truth, predicted: of the classes.
      right: whether they are the same.
      probability: of the predicted class.
      kept: share of patches that M keeps, of the predicted class's map.
      panels: (what, picture), first the region itself.
    """

    image: str
    patient: str
    truth: str
    predicted: str
    right: bool
    probability: float
    kept: float
    panels: tuple[tuple[str, UInt8[np.ndarray, "H W 3"]], ...]

    @property
    def uris(self) -> list[tuple[str, str]]:
        """The panels as data URIs."""
        return [(what, data_uri(pixels)) for what, pixels in self.panels]


def choose(tested: Predictions, most: int = MOST) -> tuple[list[int], list[int]]:
    """Rows to show: of each true class the surest right and the surest wrong one.

    Args:
      tested: predictions of one fold.
      most: of each kind; the surest are kept.

    Returns:
      Right and wrong rows, by class.
    """
    sure = np.where(tested.ok, tested.prob.max(axis=1), -1.0)
    found = []
    for right in (True, False):
        rows = []
        for k in range(tested.prob.shape[1]):
            at = tested.ok & (tested.y == k) & ((tested.pred == tested.y) == right)
            if at.any():
                rows.append(int(np.argmax(np.where(at, sure, -1.0))))
        kept = sorted(rows, key=lambda i: -sure[i])[:most]
        found.append([i for i in rows if i in kept])
    return found[0], found[1]


def cases(fold: Tested, table: Predictions) -> list[Case]:
    """The regions of `choose` with their maps, right ones first."""
    classes = fold.data.classes
    position = {name: i for i, name in enumerate(fold.data.images)}
    shown = []
    for i in [i for rows in choose(table) for i in rows]:
        row = position[table.image[i]]
        truth, called = classes[table.y[i]], classes[table.pred[i]]
        focus = fold.model.explain(fold.pixels(row), called)
        panels = [
            ("region", focus.pixels),
            (f"A of {called} (predicted)", overlay(focus.pixels, focus.A)),
            (f"patches kept for {called}", masked(focus.pixels, focus.keep)),
        ]
        if truth != called:
            of_truth = fold.model.explain(fold.pixels(row), truth).A
            panels.append((f"A of {truth} (true)", overlay(focus.pixels, of_truth)))
        structures = fold.data.read_mask(row, fold.model.image_size)
        if structures is not None and structures.any():
            panels.append(("structures of the mask", masked(focus.pixels, structures)))
        shown.append(
            Case(
                image=table.image[i],
                patient=table.patient[i],
                truth=truth,
                predicted=called,
                right=truth == called,
                probability=float(table.prob[i, table.pred[i]]),
                kept=float(focus.keep.mean()),
                panels=tuple(panels),
            )
        )
    return shown


def data_uri(pixels: UInt8[np.ndarray, "H W 3"]) -> str:
    """A picture of at most `SIDE` pixels a side: PNG if it was small, else JPEG."""
    image = Image.fromarray(pixels)
    small = max(image.size) <= SIDE // 2
    image.thumbnail((SIDE, SIDE))
    buffer = io.BytesIO()
    image.save(buffer, "PNG") if small else image.save(buffer, "JPEG", quality=85)
    kind = "png" if small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def gradient() -> str:
    """The colour map as a CSS gradient from A = 0 to A = 1."""
    stops = matplotlib.colormaps[COLOURS](np.linspace(0, 1, 9))
    colours = [matplotlib.colors.to_hex(one) for one in stops]
    return f"linear-gradient(to right, {', '.join(colours)})"


def draw(shown: Sequence[Case], folder: Path) -> None:
    """Writes gallery.pdf and gallery.svg: a row a case."""
    columns = max(len(case.panels) for case in shown)
    with matplotlib.rc_context(STYLE):
        figure = Figure(
            figsize=(1.9 * columns + 0.8, 2.3 * len(shown)), layout="constrained"
        )
        grid = figure.subplots(len(shown), columns, squeeze=False)
        for row, case in zip(grid, shown, strict=True):
            for axes in row:
                axes.set_axis_off()
            for axes, (what, pixels) in zip(row, case.panels, strict=False):
                axes.imshow(pixels, interpolation="nearest")
                axes.set_title(wrapped(what, 22), fontsize=8)
            row[0].set_title(
                f"true {wrapped(case.truth, 18, 1)}\n"
                f"predicted {wrapped(case.predicted, 14, 1)} ({case.probability:.2f})",
                fontsize=8,
            )
        scale = ScalarMappable(cmap=COLOURS)  # 0 to 1
        bar = figure.colorbar(scale, ax=grid, shrink=0.5, aspect=40)
        bar.set_label("A (0 none, 1 most)", fontsize=8)
        bar.ax.tick_params(labelsize=8)
        finish(figure, name="gallery", title="Gallery", caption="", folder=folder)
