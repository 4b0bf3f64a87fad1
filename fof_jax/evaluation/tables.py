"""Results as text: our figures and the paper's row, with the split unit named."""

from typing import Any, Literal

# Table I of Pan et al., BIBM 2024: mean and standard deviation over 5 folds, percent.
# The authors' code splits over regions, scores each region, micro-averages AUC and AP.
COLUMNS = {"auc": "AUC (%)", "ap": "AP (%)", "accuracy": "Accuracy (%)"}
COLUMNS |= {"kappa": "Kappa (%)"}
PAPER_ROWS = {
    "Baseline": ((90.37, 0.82), (83.05, 2.39), (74.36, 2.14), (61.16, 3.84)),
    "FoF w/o FRL": ((93.20, 0.53), (88.44, 1.48), (76.89, 1.60), (64.31, 2.13)),
    "FoF w/o MCA": ((93.64, 0.42), (88.26, 0.93), (76.55, 2.32), (63.85, 2.55)),
    "FoF": ((94.17, 0.68), (89.98, 1.35), (79.98, 2.17), (69.05, 2.24)),
}
SCHEMES = {
    "patient": "patient split",
    "roi": "roi split (folds over regions: patients stand on both sides)",
    "pnas15": "pnas15 splits",
    None: "split unit not given",
}


def format_table(
    results: dict[str, Any],
    *,
    unit: Literal["region", "patient"],
    scheme: str | None,
    caption: str,
    average: Literal["micro", "macro"] = "micro",
    paper_row: str | None = None,
) -> str:
    """Set mean ± deviation of AUC, AP, accuracy and kappa beside the paper's row.

    Args:
      results: what `metrics.summarise` returns.
      unit: figures per region or per patient.
      scheme: how the folds were split; None where it is not known, which is said.
      caption: the first line.
      average: of AUC and AP.
      paper_row: a name in `PAPER_ROWS`, or None for no such row.

    Returns:
      Lines of text, without a line feed at the end.

    Raises:
      ValueError: a paper_row that Table I does not have here, or a unit without rows.
    """
    if paper_row is not None and paper_row not in PAPER_ROWS:
        raise ValueError(
            f"The paper's table has no row {paper_row!r}; expected one of "
            f"{', '.join(map(repr, PAPER_ROWS))}. Pass one of these, or none."
        )
    figures = results["units"].get(unit)
    if figures is None:
        raise ValueError(
            f"There are no figures per {unit}; expected some in units.{unit}. Ask for "
            "the other unit, or fill in the patients and predict again."
        )
    folds = len(results["folds"])
    each = f"figures per {unit}"
    if unit == "patient":
        each += f" ({results['aggregate']} of probabilities over its images)"
    conditions = (
        f"{split_named(scheme)}, {_count(folds, 'fold')}; {each}, "
        f"{_count(figures['n'], unit)}, AUC and AP {average}-averaged; "
        + (f"mean ± std (ddof {results['ddof']}) over folds" if folds > 1 else "no std")
    )
    own = figures[average]
    lines = [["", *COLUMNS.values()]]
    lines.append(
        ["this run", *(percent(own["mean"][f], own["std"][f]) for f in COLUMNS)]
    )
    if paper_row is not None:
        cells = [f"{mean:.2f} ± {std:.2f}" for mean, std in PAPER_ROWS[paper_row]]
        lines.append([f"{paper_row} (paper, Table I)", *cells])
    return "\n".join([caption, conditions, *align(lines)])


FOCUS_COLUMNS = {"pointing": "pointing (%)", "inside": "A inside (%)"}
FOCUS_COLUMNS |= {"area": "area (%)", "iou": "IoU of M (%)"}
FOCUS_COLUMNS |= {"deletion": "deletion (%)", "insertion": "insertion (%)"}


def format_focus(figures: dict[str, Any], scheme: str | None) -> str:
    """Set the figures of focus, over folds and of each grade.

    Args:
      figures: what `focus.summarise` returns.
      scheme: as in `format_table`.

    Returns:
      Lines of text, without a line feed at the end.
    """
    mean, std = figures["mean"], figures["std"]
    lines = [["", "regions", *FOCUS_COLUMNS.values()]]
    each = [percent(mean[f], std[f]) for f in FOCUS_COLUMNS]
    lines.append(["all", str(figures["regions"]), *each])
    for grade, one in figures["classes"].items():
        each = [percent(one[f], None) for f in FOCUS_COLUMNS]
        lines.append([f"grade {grade}", str(one["regions"]), *each])
    conditions = (
        f"{split_named(scheme)}, {_count(len(figures['folds']), 'fold')}; test regions "
        "whose mask shows a structure, A of the true grade"
    )
    return "\n".join(["Focus", conditions, *align(lines)])


def split_named(scheme: str | None) -> str:
    """What a table says of its split; it warns where patients stand on both sides."""
    return SCHEMES.get(scheme, f"{scheme} split")


def align(rows: list[list[str]]) -> list[str]:
    """Pad cells to columns: the first to the left, the others to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def percent(mean: float | None, std: float | None) -> str:
    """A share as percent, with its deviation if there is one; "none" for None."""
    if mean is None:
        return "none"
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
