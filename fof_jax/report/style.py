"""Style of all plots, and their output: PDF and SVG files, and inline SVG.

A plot is rendered once in the light colors below. Files contain it as it is; in the
page each color becomes a CSS variable, which page.css sets for light and dark mode.
"""

import contextlib
import dataclasses
import io
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from fof_jax import files

# Role -> color in light mode; page.css has both modes. Values must be distinct, because
# inline SVG is made by replacing them.
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
# Distinguishable without color.
DASHES: tuple[Any, ...] = ("-", "--", ":", "-.", (0, (3, 1, 1, 1, 1, 1)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<")
WIDTH, HEIGHT = 4.5, 3.6  # inches; 72 SVG units each
STYLE: Any = {  # Any: Matplotlib types each key
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
    "text.parse_math": False,  # names of classes may contain $
    "font.family": "sans-serif",
    "font.size": 12,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "legend.fontsize": 11,
    "legend.frameon": False,
    "lines.linewidth": 2.0,
    "patch.edgecolor": INK,
    "pdf.fonttype": 42,  # TrueType: selectable text
    "savefig.facecolor": CARD,
    "svg.fonttype": "none",
    "svg.hashsalt": "fof-jax",  # reproducible ids
    "text.color": INK,
    "xtick.color": MUTED,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 11,
    "ytick.color": MUTED,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 11,
}


@dataclasses.dataclass(frozen=True)
class Plot:
    """A saved plot.

    Attributes:
      name: of its files, without suffix.
      title: heading and text alternative.
      caption: plain text.
      svg: inline SVG, colored by CSS variables.
    """

    name: str
    title: str
    caption: str
    svg: str


@contextlib.contextmanager
def new_figure(height: float = HEIGHT) -> Iterator[tuple[Figure, Axes]]:
    """A figure with one axes in the style of the page; height in inches."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        yield figure, figure.add_subplot()


def save_plot(
    figure: Figure, *, name: str, title: str, caption: str, folder: Path
) -> Plot:
    """Writes NAME.pdf and NAME.svg, and makes the inline SVG."""
    with matplotlib.rc_context(STYLE):
        _lay_out(figure)
        rendered = {
            "pdf": _render(figure, "pdf", {"CreationDate": None, "Title": title}),
            "svg": _render(figure, "svg", {"Date": None, "Title": title}),
        }
    for suffix, content in rendered.items():
        files.write_bytes(folder / f"{name}.{suffix}", content)
    svg = inline_svg(rendered["svg"].decode(), name=name, title=title)
    return Plot(name=name, title=title, caption=caption, svg=svg)


def inline_svg(svg: str, *, name: str, title: str) -> str:
    """Converts an SVG file to an element of the page.

    Args:
      svg: as written by Matplotlib.
      name: prefix of all ids, which makes them unique in the page.
      title: text alternative for screen readers.

    Returns:
      `<svg …>…</svg>` with CSS variables for the colors of `ROLES`.
    """
    svg = svg[svg.index("<svg") :].strip()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.S)
    svg = re.sub(r"<title>.*?</title>", "", svg, count=1, flags=re.S)
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{name}-', svg)
    svg = re.sub(r'(url\(|href=")#', rf"\1#{name}-", svg)
    for role, color in ROLES.items():
        svg = svg.replace(color, f"var(--{role})")
    box = re.search(r'viewBox="[^"]*"', svg)
    label = title.replace("&", "&amp;").replace("<", "&lt;").replace('"', "&quot;")
    head = f'<svg class="plot" role="img" aria-label="{label}" {box[0] if box else ""}>'
    return re.sub(r"<svg[^>]*>", lambda _: head, svg, count=1)


def wrapped(name: str, width: int = 24, lines: int = 2) -> str:
    """Wraps a name to lines of at most `width` characters; "…" marks truncation."""
    return "\n".join(
        textwrap.wrap(name, width, max_lines=lines, placeholder="…") or [""]
    )


def legend_below(
    figure: Figure, axes: Axes, columns: int = 1, title: str | None = None
) -> None:
    """Adds the legend below the axes, where it covers no data."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles,
        labels,
        title=title,
        loc="outside lower center",
        ncols=columns,
        columnspacing=1.2,
    )


def _lay_out(figure: Figure) -> None:
    """Places everything once, for both files."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def _render(figure: Figure, format: str, metadata: dict[str, str | None]) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=format, metadata=metadata)
    return buffer.getvalue()
