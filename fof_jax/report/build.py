"""From a workdir to its page."""

from collections.abc import Callable
from pathlib import Path

from fof_jax import intervals
from fof_jax.report import page
from fof_jax.report.run import read_run


def report(
    workdir: Path,
    *,
    versus: Path | None = None,
    out: Path | None = None,
    replicates: int = intervals.REPLICATES,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the page of a run, and its figures as PDF and SVG beside it.

    Args:
      workdir: of the run; folds may be unfinished.
      versus: of a second run to stand beside it.
      out: the page; None is report.html in the workdir. Figures go to figures/
        beside it.
      replicates: draws of an interval.
      say: prints a line.

    Returns:
      The page.

    Raises:
      ValueError: a workdir that is none, or files that cannot be used.
    """
    run = read_run(workdir)
    other = read_run(versus) if versus is not None else None
    out = workdir / "report.html" if out is None else out
    if out.is_dir():
        raise ValueError(
            f"{out} is a folder; expected a file to write. Pass "
            f"--out={out}/report.html."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / "figures"
    parts = page.sections(run, other, folder, replicates=replicates, say=say)
    parts += page.about(run)
    page.write(out, run, parts)
    return out
