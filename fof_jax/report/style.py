"""How every figure looks, and the two forms it takes: files, and SVG in the page.

A figure is drawn once, in the light colours below. The files are that drawing; in the
page each of its colours becomes a CSS variable, which page.css sets for light and dark.
"""

import contextlib
import dataclasses
import io
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Role -> colour on a light ground; page.css has the same for both grounds. No two may
# be equal: they are told apart by their value.
ROLES = {
    "card": "#fcfcfb",
    "ink": "#1d1d1b",
    "muted": "#5f5e5a",
    "grid": "#dddcd6",
    "series-0": "#2a78d6",
    "series-1": "#c2410c",
    "series-2": "#11845b",
    "series-3": "#7a3db8",
    "series-4": "#a16207",
    "series-5": "#be2f6f",
    "series-6": "#0e7490",
    "series-7": "#4d5f1f",
}
CARD, INK, MUTED, GRID = (ROLES[name] for name in ("card", "ink", "muted", "grid"))
SERIES = tuple(value for name, value in ROLES.items() if name.startswith("series"))
# Told apart without colour, too.
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
WIDTH, HEIGHT = 4.5, 3.6  # inches; 72 units of the SVG each
STYLE: Any = {  # Matplotlib's own type lists every key
    "axes.axisbelow": True,
    "axes.edgecolor": MUTED,
    "axes.facecolor": CARD,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlesize": 12,
    "figure.facecolor": CARD,
    "font.family": "sans-serif",
    "font.size": 12,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "patch.edgecolor": INK,
    "pdf.fonttype": 42,  # text stays text
    "savefig.facecolor": CARD,
    "svg.fonttype": "none",
    "svg.hashsalt": "fof-jax",  # equal figures are equal files
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 11,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 11,
}


@dataclasses.dataclass(frozen=True)
class Drawn:
    """A finished figure.

    Attributes:
      name: of its files, without suffix.
      title: what it shows, also its text alternative.
      caption: conditions, units, numbers; plain text.
      svg: for the page, coloured by CSS variables.
    """

    name: str
    title: str
    caption: str
    svg: str


@contextlib.contextmanager
def new(height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """A figure of one panel in the style of the page, of a height in inches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def finish(
    figure: Figure, *, name: str, title: str, caption: str, folder: Path
) -> Drawn:
    """Writes NAME.pdf and NAME.svg, whole or not at all, and makes the page's SVG."""
    with matplotlib.rc_context(STYLE):
        # Laid out once, so that both files have the same places.
        figure.draw_without_rendering()
        figure.set_layout_engine("none")
        drawings = {
            "pdf": _saved(figure, "pdf", {"CreationDate": None, "Title": title}),
            "svg": _saved(figure, "svg", {"Date": None, "Title": title}),
        }
    folder.mkdir(parents=True, exist_ok=True)
    for form, content in drawings.items():
        path = folder / f"{name}.{form}"
        unfinished = path.with_name(f".{path.name}.tmp")
        unfinished.write_bytes(content)
        os.replace(unfinished, path)
    svg = for_page(drawings["svg"].decode(), name=name, title=title)
    return Drawn(name=name, title=title, caption=caption, svg=svg)


def for_page(svg: str, *, name: str, title: str) -> str:
    """An SVG file as an element of the page.

    Args:
      svg: as Matplotlib writes it.
      name: made part of every id, so that several figures may stand in one page.
      title: read out instead of the picture.

    Returns:
      `<svg …>…</svg>` with CSS variables for the colours of `ROLES`.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<title>.*?</title>", "", svg, count=1, flags=re.S)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for role, colour in ROLES.items():
        svg = svg.replace(colour, f"var(--{role})")
    box = re.search(r'viewBox="[^"]*"', svg)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    head = f'<svg class="plot" role="img" aria-label="{label}" {box[0] if box else ""}>'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)


def wrapped(name: str, width: int = 24, lines: int = 2) -> str:
    """A name in lines of at most `width` characters; what does not fit is "…"."""
    return "\n".join(
        textwrap.wrap(name, width, max_lines=lines, placeholder="…") or [""]
    )


def legend_below(
    figure: Figure, axes: Axes, columns: int = 1, title: str | None = None
) -> None:
    """The legend under the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title=title,
        loc="outside lower center",
        ncols=columns,
        columnspacing=1.2,
    )


def _saved(figure: Figure, form: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=form, metadata=metadata)
    return buffer.getvalue()
