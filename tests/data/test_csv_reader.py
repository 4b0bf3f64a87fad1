"""Strict CSV: quotes that swallow rows, long cells, and what reads such tables."""

import pytest

from fof_jax.cli.main import main
from fof_jax.data.datasets.gbmlgg import make_cohort
from fof_jax.data.errors import CohortError
from fof_jax.data.external_splits import read_pnas
from fof_jax.evaluation import localization
from fof_jax.inference import inputs
from fof_jax.tables.csv_records import TableError, read_records
from tests.support.cohort_files import rows_of, write_cohort_files, write_table
from tests.support.distribution import distribution

HEADER = "image,patient,note\n"
ROWS = [f"{i}.png,P{i},ok\n" for i in range(1, 7)]


def read(path, *lines):
    path.write_text(HEADER + "".join(lines), newline="")
    return read_records(path)


@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_quoted_commas_quotes_and_line_breaks_are_kept(tmp_path, newline):
    text = f'a,P,"x, ""y""{newline}z"{newline}b,Q,{newline}{newline},,{newline}c,R,1'
    (tmp_path / "a.csv").write_text(HEADER.replace("\n", newline) + text, newline="")
    records = read_records(tmp_path / "a.csv")
    assert [record.cells for record in records[1:]] == [
        ("a", "P", f'x, "y"{newline}z'), ("b", "Q", ""), ("c", "R", "1")
    ]  # fmt: skip
    assert [record.row for record in records] == [1, 2, 3, 6]
    assert [record.line for record in records] == [1, 2, 4, 7]


@pytest.mark.parametrize(
    ("number", "cell", "closing"),
    [
        (2, '"5 mm', None),  # never closed
        (2, '"5 mm', '6"'),  # closed by another row's quote
        (2, '"5 mm', 'x"y'),
        (5, '"', None),  # in the last row but one
    ],
)
def test_a_quote_that_swallows_rows_is_an_error(tmp_path, number, cell, closing):
    lines = list(ROWS)
    lines[number - 1] = f"{number}.png,P{number},{cell}\n"
    if closing is not None:
        lines[number + 1] = f"{number + 2}.png,P{number + 2},{closing}\n"
    with pytest.raises(TableError, match=f"line {number + 1}: .*quote"):
        read(tmp_path / "a.csv", *lines)


def test_a_quote_in_a_middle_column_swallows_rows_too(tmp_path):
    lines = list(ROWS)
    lines[1], lines[2] = '2.png,"P2,ok\n', '3.png,P3",ok\n'
    with pytest.raises(TableError, match="line 3: .* takes in line 4"):
        read(tmp_path / "a.csv", *lines)


def test_text_after_a_quote_nul_and_long_cells_are_errors(tmp_path):
    path = tmp_path / "a.csv"
    with pytest.raises(TableError, match="line 3: not CSV"):
        read(path, ROWS[0], '2.png,"P"2,ok\n')
    with pytest.raises(TableError, match="line 2: not CSV .*field limit"):
        read(path, f"1.png,P,{'x' * 140_000}\n")
    with pytest.raises(TableError, match="NUL"):
        read(path, "1.png,P,\0\n")
    path.write_bytes(b"image\n\xff")
    with pytest.raises(TableError, match="is not UTF-8"):
        read_records(path)


def unclosed(table, line=4):
    """Opens a quote in the last cell of a line, which is never closed."""
    lines = table.read_text().splitlines()
    cells = lines[line - 1].split(",")
    lines[line - 1] = ",".join([*cells[:-1], f'"{cells[-1]}'])
    table.write_text("\n".join(lines) + "\n")


def test_data_check_and_build_refuse_the_table(tmp_path, capsys):
    write_cohort_files(tmp_path, 12)
    table = write_table(tmp_path, [row | {"note": "ok"} for row in rows_of(12)])
    unclosed(table)
    for action in ("check", "build"):
        words = ["--config=cohort", f"--config.data.table={table}"]
        words += [f"--config.data.dir={tmp_path / 'data'}"]
        words += ["--config.data.biomarkers=('idh',)", "--config.data.image_size=16"]
        assert main(["data", action, *words]) == 2
        assert "line 4: not CSV" in capsys.readouterr().err


def test_other_tables_are_read_strictly_too(tmp_path):
    (tmp_path / "images.csv").write_text('image,grade\na.png,"II\nb.png,III\n')
    with pytest.raises(CohortError, match="line 2: not CSV"):
        inputs.find(tmp_path / "images.csv")
    distribution(tmp_path, {f"TCGA-AA-000{k}": ("2", "1", 1) for k in range(4)})
    unclosed(tmp_path / "grade_data.csv", line=3)
    with pytest.raises(CohortError, match="line 3: not CSV"):
        make_cohort(tmp_path)
    (tmp_path / "pnas.csv").write_text(',R1\nA,Train\nB,"Test\nC,Test\n')
    with pytest.raises(CohortError, match="line 3: not CSV"):
        read_pnas(tmp_path / "pnas.csv")


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['a,"x,II,0.5,0.5', "b,y,II,0.5,0.5"], "line 2: not CSV"),
        (['a,"x,II,0.5,0.5', 'b,y",II,0.5,0.5'], "takes in line 3"),
    ],
)
def test_eval_refuses_a_table_of_predictions(tmp_path, capsys, lines, words):
    path = tmp_path / "predictions.csv"
    path.write_text("\n".join(["image,patient,y,p_II,p_III", *lines, ""]))
    assert main(["eval", f"--predictions={path}"]) == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("cell", ["nan", "x", '"0.5'])
def test_a_localization_table_with_another_cell_is_an_error(tmp_path, cell):
    cells = {"image": "a.png", "patient": "P", "fold": 0, "grade": "II"}
    row = cells | dict.fromkeys(localization.METRICS, 0.5)
    path = tmp_path / "focus.csv"
    localization.write(path, [row, row])
    assert localization.read(path) == [row, row]
    path.write_text(path.read_text().replace("0.5\na", f"{cell}\na", 1))
    with pytest.raises(ValueError, match="Remove it, or train the fold again"):
        localization.read(path)
