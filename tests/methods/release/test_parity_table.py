"""Every item of docs/parity.md has a row, and every quirk tag in the code its test."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "docs" / "parity.md"


def _rows() -> dict[int, list[str]]:
    rows = {}
    for line in TABLE.read_text().splitlines():
        cells = [c.strip() for c in line.strip().strip("|").split(" | ")]
        if cells[0].isdigit():
            assert int(cells[0]) not in rows, f"row {cells[0]} stands twice"
            rows[int(cells[0])] = cells
    return rows


def test_a_row_for_every_item():
    rows = _rows()
    assert sorted(rows) == list(range(1, 53))
    for number, cells in rows.items():
        assert len(cells) == 7, f"row {number} has {len(cells)} cells"
        assert all(cells), f"row {number} has an empty cell"


def test_tags_match_rows():
    """A tag in the code <-> "reproduced" in the row of that number."""
    tags = {
        int(n)
        for folder in ("methods/release", "parity")
        for path in (ROOT / "fof_jax" / folder).glob("*.py")
        for n in re.findall(r"\bQ(\d+)\b", path.read_text())
    }
    reproduced = {n for n, cells in _rows().items() if "**reproduced**" in cells[4]}
    assert tags == reproduced


def test_named_tests_exist():
    for number, cells in _rows().items():
        for file, test in re.findall(r"`(test_\w+)(?:::(\w+))?`", cells[6]):
            (path,) = (ROOT / "tests").rglob(f"{file}.py")
            assert not test or f"def {test}(" in path.read_text(), f"row {number}"


def test_every_reproduced_quirk_names_its_test():
    for number, cells in _rows().items():
        if "**reproduced**" in cells[4]:
            assert re.search(r"`test_\w+::\w+`", cells[6]), f"row {number}"
