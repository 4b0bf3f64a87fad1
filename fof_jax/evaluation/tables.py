"""Text tables of results, with the paper's row and the unit of the split."""

from typing import Any, Literal

from fof_jax.evaluation.published import FIGURES, cited

# Of the paper's tables. The authors' code splits by region, scores each region,
# micro-averages AUC and AP.
COLUMNS = {"auc": "AUC (%)", "ap": "AP (%)", "accuracy": "Accuracy (%)"}
COLUMNS |= {"kappa": "Kappa (%)"}
SPLIT_DESCRIPTIONS = {
    "patient": "patient split",
    "roi": "roi split (split by region: patients are in both training and test)",
    "pnas15": "pnas15 splits",
    None: "split unit unknown",
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
    """Formats mean ± std of AUC, AP, accuracy and kappa, with the paper's row.

    Args:
      results: the return value of `metrics.summarize`.
      unit: metrics per region or per patient.
      scheme: how the folds were split; None if unknown.
      caption: the first line.
      average: averaging of AUC and AP.
      paper_row: a key of `published.FIGURES`, or None to leave the paper's row out.

    Returns:
      Lines of text, without a trailing newline.

    Raises:
      ValueError: unknown paper_row, or a unit without rows.
    """
    if paper_row is not None and paper_row not in FIGURES:
        raise ValueError(
            f"The paper's table has no row {paper_row!r}; expected one of "
            f"{', '.join(map(repr, FIGURES))}. Pass one of these, or none."
        )
    metrics = results["units"].get(unit)
    if metrics is None:
        raise ValueError(
            f"There are no metrics per {unit}; expected units.{unit} to be filled. "
            "Choose the other unit, or fill in the patients and predict again."
        )
    folds = len(results["folds"])
    counted = f"metrics per {unit}"
    if unit == "patient":
        counted += f" ({results['aggregate']} of probabilities over its images)"
    conditions = (
        f"{describe_split(scheme)}, {_count(folds, 'fold')}; {counted}, "
        f"{_count(metrics['n'], unit)}, AUC and AP {average}-averaged; "
        + (f"mean ± std (ddof {results['ddof']}) over folds" if folds > 1 else "no std")
    )
    lines = [["", *COLUMNS.values()]]
    mean, std = metrics[average]["mean"], metrics[average]["std"]
    lines.append(["this run", *(percent(mean[f], std[f]) for f in COLUMNS)])
    if paper_row is not None:
        cells = [f"{mean:.2f} ± {std:.2f}" for mean, std in FIGURES[paper_row]]
        lines.append([cited(paper_row), *cells])
    return "\n".join([caption, conditions, *align(lines)])


LOCALIZATION_COLUMNS = {"pointing": "pointing (%)", "inside": "A inside (%)"}
LOCALIZATION_COLUMNS |= {"area": "area (%)", "iou": "IoU of M (%)"}
LOCALIZATION_COLUMNS |= {"deletion": "deletion (%)", "insertion": "insertion (%)"}


def format_localization(summary: dict[str, Any], scheme: str | None) -> str:
    """Formats the localization metrics, over folds and per grade.

    Args:
      summary: the return value of `localization.summarize`.
      scheme: as in `format_table`.

    Returns:
      Lines of text, without a trailing newline.
    """
    mean, std = summary["mean"], summary["std"]
    lines = [["", "regions", *LOCALIZATION_COLUMNS.values()]]
    cells = [percent(mean[m], std[m]) for m in LOCALIZATION_COLUMNS]
    lines.append(["all", str(summary["regions"]), *cells])
    for grade, one in summary["classes"].items():
        cells = [percent(one[m], None) for m in LOCALIZATION_COLUMNS]
        lines.append([f"grade {grade}", str(one["regions"]), *cells])
    conditions = (
        f"{describe_split(scheme)}, {_count(len(summary['folds']), 'fold')}; "
        "test regions with a structure in their mask, A of the true grade"
    )
    return "\n".join(["Focus", conditions, *align(lines)])


def describe_split(scheme: str | None) -> str:
    """Describes the split, with a warning where patients are in training and test."""
    return SPLIT_DESCRIPTIONS.get(scheme, f"{scheme} split")


def align(rows: list[list[str]]) -> list[str]:
    """Pads cells to columns, the first left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]


def percent(mean: float | None, std: float | None) -> str:
    """Formats a fraction as percent, with its std if given; "none" for None."""
    if mean is None:
        return "none"
    return f"{100 * mean:.2f}" + ("" if std is None else f" ± {100 * std:.2f}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
