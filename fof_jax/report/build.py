"""From a workdir to its page."""

from collections.abc import Callable
from pathlib import Path

from fof_jax.evaluation import bootstrap
from fof_jax.report import page, sections
from fof_jax.report.run import read_run


def report(
    workdir: Path,
    *,
    open_data: sections.OpenData,
    versus: Path | None = None,
    fold: int | None = None,
    out: Path | None = None,
    replicates: int = bootstrap.REPLICATES,
    say: Callable[[str], None] = print,
) -> Path:
    """Writes the page of a run, and its figures as PDF and SVG beside it.

    Args:
      workdir: of the run; folds may be unfinished.
      open_data: the store that a configuration describes; where it raises a
        ValueError, pictures of regions are left out and the page says why.
      versus: of a second run to stand beside it.
      fold: whose model and regions are pictured; None takes the first finished one.
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
    if fold is not None and not 0 <= fold < len(run.folds):
        raise ValueError(
            f"Fold {fold} does not exist: {workdir} has folds 0-{len(run.folds) - 1}. "
            "Pass one of these to --fold, or none."
        )
    out = workdir / "report.html" if out is None else out
    if out.is_dir():
        raise ValueError(
            f"{out} is a folder; expected a file to write. Pass "
            f"--out={out}/report.html."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    folder = out.parent / "figures"
    parts = sections.sections(
        run,
        other,
        fold=fold,
        open_data=open_data,
        replicates=replicates,
        folder=folder,
        say=say,
    )
    page.write(out, run, sections.warnings(run), parts)
    return out
