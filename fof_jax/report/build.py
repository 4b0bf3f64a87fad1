"""Builds the report of a workdir."""

from collections.abc import Callable
from pathlib import Path

from fof_jax.evaluation import bootstrap
from fof_jax.report import page, sections
from fof_jax.report.run import Run, read_run


def report(
    workdir: Path,
    *,
    open_data: sections.OpenData,
    versus: Path | None = None,
    fold: int | None = None,
    out: Path | None = None,
    replicates: int = bootstrap.REPLICATES,
    log: Callable[[str], None] = print,
) -> Path:
    """Writes the report of a run, and its plots as PDF and SVG in the same folder.

    Args:
      workdir: of the run; folds may be unfinished.
      open_data: opens the store of a config; if it raises a ValueError, features and
        regions are omitted and the page gives the reason.
      versus: workdir of a second run to compare with.
      fold: fold whose features and regions are shown; None: the first finished one.
      out: path of the page; None: report.html in the workdir. Plots go to figures/ in
        the same folder.
      replicates: bootstrap replicates of an interval.
      log: prints a line.

    Returns:
      Path of the page.

    Raises:
      ValueError: not a workdir, or files that cannot be used.
    """
    run = read_run(workdir)
    other = read_run(versus) if versus is not None else None
    if fold is not None and not 0 <= fold < len(run.folds):
        raise ValueError(
            f"Fold {fold} does not exist: {workdir} has folds 0-{len(run.folds) - 1}. "
            "Pass one of these as --fold, or none."
        )
    out = workdir / "report.html" if out is None else out
    if out.is_dir():
        raise ValueError(
            f"{out} is a folder; expected a file to write. Pass "
            f"--out={out}/report.html."
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    parts = sections.sections(
        run,
        other,
        fold=fold,
        open_data=open_data,
        replicates=replicates,
        folder=out.parent / "figures",
        log=log,
    )
    for part in parts:
        for line in part.text:
            if line.startswith("Omitted"):
                log(f"report: warning: {part.title}: {line}")
    page.write(
        out,
        title=f"{run.workdir.resolve().name}: {run.name}",
        lead=_lead(run),
        warnings=sections.warnings(run),
        parts=parts,
    )
    return out


def _lead(run: Run) -> str:
    """Network, budget and folds of a run."""
    config = run.config
    most = config["data"].get("max_tokens")
    inputs = f"images of {config['data']['image_size']} pixels"
    if "bags" in config:
        inputs = "bags of patch features" + (
            f", at most {most} in training" if most else ""
        )
    return (
        f"Encoder {config['encoder']}, {config['epochs']} epochs, batch "
        f"{config['batch_size']}, {inputs}; "
        f"{run.scheme} split, {len(run.finished)} of {len(run.folds)} folds finished."
    )
