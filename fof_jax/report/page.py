"""Renders the report: content of a section, and the HTML page."""

import dataclasses
import importlib.resources
from pathlib import Path

import jinja2

import fof_jax
from fof_jax import files
from fof_jax.inference.outputs import USE
from fof_jax.report import gallery
from fof_jax.report.gallery import Case, Strip
from fof_jax.report.style import Plot
from fof_jax.report.tables import Table


@dataclasses.dataclass(frozen=True)
class Section:
    """A section of the page.

    Attributes:
      anchor: HTML id.
      title: heading.
      text: paragraphs before the rest; also the reason for missing content.
      tables, plots, strips, cases: shown in this order.
      pairs: plots come in pairs of two runs.
      verbatim: preformatted text.
      collapsed: shown on click only.
    """

    anchor: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    plots: tuple[Plot, ...] = ()
    pairs: bool = False
    strips: tuple[Strip, ...] = ()
    cases: tuple[Case, ...] = ()
    verbatim: str = ""
    collapsed: bool = False


def write(
    path: Path, *, title: str, lead: str, warnings: list[str], parts: list[Section]
) -> None:
    """Renders the page and writes it atomically.

    Args:
      path: of the HTML file.
      title: heading of the page.
      lead: what the page is about, in a sentence or two.
      warnings: caveats, shown first.
      parts: sections in order.
    """
    folder = importlib.resources.files("fof_jax.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string((folder / "page.html").read_text("utf-8"))
    text = template.render(
        title=title,
        lead=lead,
        notice=USE,
        version=fof_jax.__version__,
        warnings=warnings,
        gradient=gallery.gradient(),
        sections=parts,
        css=(folder / "page.css").read_text("utf-8"),
    )
    files.write_text(path, text)
