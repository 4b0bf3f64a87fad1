"""paper/ and release/ import nothing of each other; quirk tags have their rows."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SHARED_PARTS = {"vit", "attention", "shapes", "method", "pretrained", "comparison"}
TABLE = ROOT / "docs" / "parity.md"


def imports(path: Path) -> set[str]:
    """Full dotted names of what a file imports from the package."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "fof_jax"}


@pytest.mark.parametrize("own", ["paper", "release"])
def test_wall(own):
    files = sorted((ROOT / "fof_jax" / own).glob("*.py"))
    assert len(files) >= 6
    for path in files:
        for name in imports(path):
            part = name.split(".")[1]
            assert part in SHARED_PARTS | {own}, f"{path.name} imports {name}"


def test_only_the_table_of_methods_names_the_release():
    """Nobody asks `if release`: the core knows methods by their protocol."""
    for name in SHARED_PARTS - {"method"}:
        one, folder = ROOT / "fof_jax" / f"{name}.py", ROOT / "fof_jax" / name
        files = [one] if one.exists() else sorted(folder.glob("*.py"))
        assert files
        for file in files:
            text = file.read_text().lower()
            assert "fof_jax.release" not in text
            assert "if release" not in text


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
        for path in (ROOT / "fof_jax" / "release").glob("*.py")
        for n in re.findall(r"\bQ(\d+)\b", path.read_text())
    }
    reproduced = {n for n, cells in _rows().items() if "**reproduced**" in cells[4]}
    assert tags == reproduced


def test_named_tests_exist():
    for number, cells in _rows().items():
        for file, test in re.findall(r"`(test_\w+)(?:::(\w+))?`", cells[6]):
            path = ROOT / "tests" / f"{file}.py"
            if not file.startswith("test_release") and not path.is_file():
                continue  # a part of the package that is tested elsewhere
            assert path.is_file(), f"row {number}: {file}"
            assert not test or f"def {test}(" in path.read_text(), f"row {number}"


def test_every_reproduced_quirk_names_its_test():
    for number, cells in _rows().items():
        if "**reproduced**" in cells[4]:
            assert re.search(r"`test_\w+::\w+`", cells[6]), f"row {number}"
