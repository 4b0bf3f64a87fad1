"""Formats a comparison as text, CSV, LaTeX (booktabs) and JSON.

Nothing here depends on the time or the machine: the same predictions give the same
bytes.
"""

import csv
import io
import json
from collections.abc import Sequence

from fof_jax.evaluation import published
from fof_jax.evaluation.comparison import ALPHA, Comparison, Row, Score
from fof_jax.evaluation.paired import METRICS, Difference
from fof_jax.evaluation.tables import COLUMNS, align

TITLES = {
    "I": "Table I: the image alone at test",
    "II": "Table II: image and omics at test",
    "": "Runs",
}
NAMES = {metric: name.removesuffix(" (%)") for metric, name in COLUMNS.items()}


def text(comparison: Comparison) -> str:
    """Both tables, differences, remarks and conditions, without a trailing newline."""
    blocks = []
    for table, title in TITLES.items():
        rows = [row for row in comparison.rows if row.table == table]
        if rows:
            blocks.append("\n".join([title, *align(result_lines(rows))]))
    for reference in comparison.references:
        lines = [difference_caption(comparison, reference)]
        lines += align(difference_lines(comparison, reference))
        blocks.append("\n".join(lines))
    if notes := remarks(comparison):
        blocks.append("\n".join(["Incomplete rows", *(f"- {note}" for note in notes)]))
    blocks.append(
        "\n".join(["Conditions", *(f"- {c}" for c in conditions(comparison))])
    )
    return "\n\n".join(blocks)


def result_lines(rows: Sequence[Row]) -> list[list[str]]:
    """Header and rows: cells, ours, and the paper's where a row has it."""
    paper = any(row.paper for row in rows)
    header = ["", "cells", *COLUMNS.values()]
    header += [f"paper: {name}" for name in NAMES.values()] if paper else []
    lines = [header]
    for row in rows:
        cells = [row.label, f"{len(row.per_cell)} of {row.expected}"]
        cells += [score_text(row.scores.get(metric)) for metric in METRICS]
        if paper:
            figures = row.paper or ()
            cells += [f"{mean:.2f} ± {std:.2f}" for mean, std in figures]
            cells += [""] * (len(METRICS) - len(figures))
        lines.append(cells)
    return lines


def difference_lines(comparison: Comparison, reference: str) -> list[list[str]]:
    """Header and one row per row that has a difference to `reference`."""
    lines = [["", "cells", *NAMES.values()]]
    for row in comparison.finished():
        by_metric = row.differences.get(reference)
        if by_metric:
            cells = {str(one.cells) for one in by_metric.values()}
            texts = [difference_text(by_metric.get(metric)) for metric in METRICS]
            lines.append([row.label, "/".join(sorted(cells)), *texts])
    return lines


def difference_caption(comparison: Comparison, reference: str) -> str:
    """Says what the differences are, their intervals and the correction."""
    compared = len(difference_lines(comparison, reference)) - 1
    return (
        f"Difference to {comparison.label_of(reference)} in points, with 95% interval "
        f"by patient and p-value after Holm's correction for {compared} comparisons "
        f"(for each metric); * at most {ALPHA}"
    )


def remarks(comparison: Comparison) -> list[str]:
    """Rows without all of their cells, with the reason; rows of one reason together."""
    by_reason: dict[str, list[str]] = {}
    for row in comparison.rows:
        labels = by_reason.setdefault(row.remark, [])
        if row.label not in labels:
            labels.append(row.label)
    return [f"{', '.join(rows)}: {why}" for why, rows in by_reason.items() if why]


def conditions(comparison: Comparison) -> list[str]:
    """How the rows were made and scored; the paper's protocols where it is cited."""
    total, patients = comparison.counts
    counted = f"{total} test {comparison.unit}s"
    if comparison.unit == "region":
        counted += f" of {patients} patients"
    lines = [
        *comparison.conditions,
        f"metrics per {comparison.unit}, {counted}; AUC and AP micro-averaged; mean ± "
        "std (ddof 1) over cells",
        f"intervals: {comparison.replicates} bootstrap replicates; the patients of all "
        "test folds together are sampled, the same ones for all rows, and metrics are "
        "averaged over cells as in the tables; they cover the choice of test "
        "patients, not the variation of training",
    ]
    if any(row.paper for row in comparison.rows):
        lines.append(published.PROTOCOLS)
    return lines


def score_text(score: Score | None) -> str:
    """Mean ± std in percent; "" without a score."""
    if score is None:
        return ""
    if score.mean is None:
        return "undefined"
    std = "" if score.std is None else f" ± {100 * score.std:.2f}"
    return f"{100 * score.mean:.2f}{std}"


def difference_text(one: Difference | None) -> str:
    """Points, interval and corrected p-value; "*" where it is significant."""
    if one is None:
        return "undefined"
    low, high = (f"{100 * v:+.2f}" for v in (one.low, one.high))
    mark = "*" if one.p_holm <= ALPHA else ""
    return f"{100 * one.value:+.2f} ({low} to {high}), p {one.p_holm:.3f}{mark}"


def as_csv(comparison: Comparison) -> str:
    """One line per row of the tables; percent and points, empty where unknown."""
    header = ["table", "method", "row", "cells", "expected"]
    for metric in METRICS:
        header += [f"{metric}_{part}" for part in ("mean", "std", "low", "high")]
        header += [f"{metric}_paper_mean", f"{metric}_paper_std"]
        for reference in comparison.references:
            header += [
                f"{metric}_minus_{reference}{part}"
                for part in ("", "_low", "_high", "_p", "_p_holm")
            ]
    stream = io.StringIO(newline="")
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow([*header, "remark"])
    for row in comparison.rows:
        line = [row.table, row.label, row.name, len(row.per_cell), row.expected]
        for i, metric in enumerate(METRICS):
            score = row.scores.get(metric)
            line += [_percent(getattr(score, part, None)) for part in _PARTS]
            line += row.paper[i] if row.paper else ("", "")
            for reference in comparison.references:
                one = row.differences.get(reference, {}).get(metric)
                line += ["" if one is None else f"{100 * getattr(one, part):.4f}"
                         for part in ("value", "low", "high")]  # fmt: skip
                line += ["" if one is None else f"{getattr(one, part):.6f}"
                         for part in ("p", "p_holm")]  # fmt: skip
        writer.writerow([*line, row.remark])
    return stream.getvalue()


_PARTS = ("mean", "std", "low", "high")


def as_json(comparison: Comparison) -> str:
    """Everything, as fractions, with the metrics of every cell."""
    rows = []
    for row in comparison.rows:
        rows.append(
            {
                "table": row.table,
                "method": row.label,
                "row": row.name,
                "expected": row.expected,
                "remark": row.remark,
                "scores": {m: vars(score) for m, score in row.scores.items()},
                "cells": [
                    {"seed": seed, "fold": fold} | dict(values)
                    for (seed, fold), values in row.per_cell.items()
                ],
                "differences": {
                    reference: {m: vars(one) for m, one in values.items()}
                    for reference, values in row.differences.items()
                },
                "paper_percent": row.paper
                and dict(zip(METRICS, map(list, row.paper), strict=True)),
            }
        )
    document = {
        "rows": rows,
        "references": comparison.references,
        "unit": comparison.unit,
        "replicates": comparison.replicates,
        "conditions": conditions(comparison),
    }
    return json.dumps(document, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def latex(comparison: Comparison) -> str:
    """One booktabs table per table of the paper, ours beside the published figures.

    A dagger marks a metric that differs from that of the first reference.
    """
    blocks = ["% \\usepackage{booktabs}"]
    for table in TITLES:
        rows = [row for row in comparison.rows if row.table == table]
        if rows:
            blocks.append(_latex_table(comparison, table, rows))
    return "\n".join(blocks) + "\n"


def _latex_table(comparison: Comparison, table: str, rows: Sequence[Row]) -> str:
    paper = any(row.paper for row in rows)
    groups = 2 if paper else 1
    names = " & ".join(f"{name} (\\%)" for name in NAMES.values())
    lines = [
        f"\\begin{{tabular}}{{l{'c' * (groups * len(METRICS))}}}",
        "\\toprule",
    ]
    if paper:
        lines += [
            " & \\multicolumn{4}{c}{Measured here} & \\multicolumn{4}{c}{Published} "
            "\\\\",
            "\\cmidrule(lr){2-5}\\cmidrule(lr){6-9}",
        ]
    lines += ["Method & " + " & ".join([names] * groups) + " \\\\", "\\midrule"]
    reference = next(iter(comparison.references), None)
    for row in rows:
        cells = [_latex_text(row.label)]
        for metric in METRICS:
            cell = score_text(row.scores.get(metric)).replace("±", "$\\pm$") or "--"
            one = row.differences.get(reference or "", {}).get(metric)
            cells.append(cell + ("$^\\dagger$" if one and one.p_holm <= ALPHA else ""))
        if paper:
            figures = [f"{m:.2f} $\\pm$ {s:.2f}" for m, s in row.paper or ()]
            cells += figures or ["--"] * len(METRICS)
        lines.append(" & ".join(cells) + " \\\\")
    lines += ["\\bottomrule", "\\end{tabular}"]
    lines += [f"% {TITLES[table]}"]
    lines += [f"% {line}" for line in conditions(comparison)]
    if reference is not None:
        lines.append(
            f"% $^\\dagger$: differs from {comparison.label_of(reference)}, p <= "
            f"{ALPHA} after Holm's correction."
        )
    return "\n".join(lines)


def _latex_text(plain: str) -> str:
    for character in "&%$#_{}":
        plain = plain.replace(character, f"\\{character}")
    return plain


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.4f}"
