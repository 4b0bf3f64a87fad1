"""The page as such: what a section may hold, and HTML written whole or not at all."""

import dataclasses
import importlib.metadata
import importlib.resources
import os
from pathlib import Path

import jinja2

from fof_jax.report import gallery
from fof_jax.report.gallery import Case
from fof_jax.report.run import Run
from fof_jax.report.style import Drawn
from fof_jax.report.tables import Table

NOTICE = "Research use, not for diagnosis."


@dataclasses.dataclass(frozen=True)
class Section:
    """A part of the page.

    Attributes:
      anchor: its id.
      title: its heading.
      text: paragraphs before the rest; also why something is not there.
      tables, figures, cases: shown in this order.
      pairs: two of its figures belong together.
      verbatim: text that keeps its lines.
      folded: shown when its heading is opened.
    """

    anchor: str
    title: str
    text: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    figures: tuple[Drawn, ...] = ()
    pairs: bool = False
    cases: tuple[Case, ...] = ()
    verbatim: str = ""
    folded: bool = False


def write(path: Path, run: Run, warnings: list[str], parts: list[Section]) -> None:
    """Renders the page to a temporary name, then renames it."""
    here = importlib.resources.files("fof_jax.report")
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    template = environment.from_string((here / "page.html").read_text("utf-8"))
    text = template.render(
        title=f"{run.workdir.resolve().name}: {run.name}",
        run=run,
        notice=NOTICE,
        version=importlib.metadata.version("fof-jax"),
        warnings=warnings,
        gradient=gallery.gradient(),
        sections=parts,
        css=(here / "page.css").read_text("utf-8"),
    )
    unfinished = path.with_name(f".{path.name}.tmp")
    unfinished.write_text(text, encoding="utf-8")
    os.replace(unfinished, path)
