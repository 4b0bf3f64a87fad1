"""Imports go downward: the layers of the package, checked by reading every import.

The reference is the table below. A module or folder of the package that is not in it
fails the test, as does an import of the same or a higher layer, and a circle of files.
"""

import ast
from pathlib import Path

import pytest

from tests.support.source import modules

PACKAGE = Path(__file__).parents[2] / "fof_jax"
# Top-level name -> the top-level names that it may import.
LAYERS = {
    "types": set(),
    "files": set(),
    "tables": set(),
    "models": {"types", "files"},
    "data": {"types", "files", "tables"},
    "evaluation": {"types", "files", "tables"},
    "methods": {"types", "models"},
    "explainers": {"types", "models", "methods"},
    "training": {
        *("types", "files", "tables", "models", "data", "evaluation", "methods")
    },
}
LAYERS["inference"] = {*LAYERS["training"], "training", "explainers"}
LAYERS["parity"] = LAYERS["inference"]
LAYERS["report"] = {*LAYERS["inference"], "inference"}
LAYERS["cli"] = {*LAYERS["report"], "report", "parity"}
# The package's own `load` and `train` are imported on first use.
LAYERS["__init__"] = {"inference", "cli"}
LAYERS["__main__"] = {"cli"}


def imports(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports, also inside functions."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            head, _, rest = name.partition(".")
            if head != "fof_jax":
                continue
            while rest and rest not in known:  # a symbol: its module
                rest = rest.rpartition(".")[0]
            found |= {rest} if rest else set()
    return found


def violations(package: Path) -> list[str]:
    """What breaks the table, one line each."""
    known = modules(package)
    graph = {name: imports(path, known) for name, path in known.items()}
    lines = []
    for name, targets in graph.items():
        top = name.split(".")[0]
        if top not in LAYERS:
            lines.append(f"{name}: not in the table of layers")
            continue
        for target in sorted(targets):
            other = target.split(".")[0]
            if other != top and other not in LAYERS[top]:
                lines.append(f"{name} imports {target}: upward")
    state: dict[str, int] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if state.get(name) == 2:
            return
        if state.get(name) == 1:
            lines.append(f"circle: {' -> '.join([*path[path.index(name) :], name])}")
            return
        state[name] = 1
        for target in sorted(graph[name]):
            visit(target, (*path, name))
        state[name] = 2

    for name in graph:
        visit(name, ())
    return lines


def test_imports_go_downward():
    assert violations(PACKAGE) == []


@pytest.mark.parametrize(
    ("file", "line", "message"),
    [
        ("models/vit.py", "from fof_jax.training import train", "upward"),
        ("evaluation/metrics.py", "from fof_jax.data import store", "upward"),
        ("files.py", "def f():\n    import fof_jax.cli.main", "upward"),
        ("stray.py", "X = 1", "not in the table"),
        ("data/images.py", "from fof_jax.data.images_two import Y", "circle"),
    ],
)
def test_a_wrong_import_is_found(tmp_path, file, line, message):
    for name, text in {
        "models/vit.py": "",
        "training/train.py": "",
        "data/store.py": "",
        "data/images.py": "",
        "data/images_two.py": "from fof_jax.data import images",
        "cli/main.py": "",
        file: line,
    }.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
    found = violations(tmp_path)
    assert len(found) == 1
    assert message in found[0]


@pytest.mark.parametrize(("own", "other"), [("paper", "release"), ("release", "paper")])
def test_paper_and_release_do_not_import_each_other(own, other):
    """Both may share networks and the protocol, and no other method."""
    known = modules(PACKAGE)
    own_files = [name for name in known if name.startswith(f"methods.{own}.")]
    assert len(own_files) >= 5
    for name in own_files:
        for target in imports(known[name], known):
            assert target.startswith((f"methods.{own}", "models", "types")) or (
                target in ("methods.base", "methods.encoder")
            ), f"{name} imports {target}"


def test_only_the_registry_names_the_release():
    """Nobody asks `if release`: the code above knows methods by their protocol."""
    for name, path in modules(PACKAGE).items():
        if name.startswith(("methods.release", "parity", "data.augment", "cli")):
            continue
        if "fof_jax.methods.release" in path.read_text():
            # The principal component is an explainer of any model.
            allowed = ("methods.registry", "explainers.principal_component")
            assert name in allowed, name


def test_no_test_imports_a_test():
    """What several tests need is in tests/support."""
    for path in sorted(PACKAGE.parent.glob("tests/**/*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [alias.name for alias in node.names]
            words = ".".join([getattr(node, "module", ""), *names]).split(".")
            assert not any(word.startswith("test_") for word in words), path
