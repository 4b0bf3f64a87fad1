"""Documentation: links, paths, commands, equations and the source tree are valid."""

import importlib
import re
import shlex
from pathlib import Path

import pytest

from fof_jax.cli import config
from fof_jax.cli.main import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")]


def commands():
    """Every `python launch.py …` in a code block, with continuation lines joined."""
    for page in PAGES:
        for block in re.findall(r"```[a-z]*\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                _, found, words = line.partition("python launch.py ")
                if found and "…" not in words and "[" not in words:
                    yield pytest.param(words, id=f"{page.name}: {words[:50]}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_exist(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_paths_exist(page):
    if page.name == "CHANGELOG.md":
        pytest.skip("old entries name old paths")
    folders = "fof_jax|configs|tests|tools|benchmarks|examples|docs"
    text = re.sub(r"\w+://\S+", "", page.read_text())
    for path in re.findall(rf"(?<![\w/.])(?:{folders})/[\w/.-]*[\w/]", text):
        assert (ROOT / path).exists(), path


def test_every_test_file_exists():
    names = {path.name for path in (ROOT / "tests").rglob("test_*.py")}
    for page in PAGES:
        if page.name != "CHANGELOG.md":
            for name in re.findall(r"\btest_\w+\.py\b", page.read_text()):
                assert name in names, f"{page.name}: {name}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    for page in ROOT.glob("docs/**/*.md"):
        if page.name != "README.md":
            assert f"]({page.relative_to(ROOT / 'docs')})" in index, page.name


def test_source_tree_of_the_readme():
    readme = (ROOT / "README.md").read_text()
    tree = readme.partition("\nfof_jax/\n")[2].partition("```")[0]
    listed = {line.split()[0].rstrip("/") for line in tree.splitlines() if line}
    existing = {
        path.name
        for path in (ROOT / "fof_jax").iterdir()
        if not path.name.startswith("__") and not path.is_symlink()
    }
    assert listed == existing


@pytest.mark.parametrize("words", list(commands()))
def test_commands_name_verbs_and_fields_that_exist(words):
    words = shlex.split(words.replace("$SLURM_ARRAY_TASK_ID", "0"), comments=True)
    verb = words[0] if not words[0].startswith("-") else "train"
    assert verb in COMMANDS
    ours, _ = config.separate(words)
    if ours:
        # mine.py is what `data init` writes for a reader.
        ours = [w.replace("=mine.py", "=configs/cohort.py") for w in ours]
        config.load([w.replace("--config=configs/", f"--config={ROOT}/configs/")
                     for w in ours])  # fmt: skip


def test_equations_name_functions_and_tests_that_exist():
    text = (ROOT / "docs/equations.md").read_text()
    tests = (ROOT / "tests/methods/paper/test_equations.py").read_text()
    rows = re.findall(r"\[`([\w.]+)`\]\(\.\./(fof_jax/[\w/]+)\.py\)", text)
    assert len(rows) >= 15
    for name, path in rows:
        module = importlib.import_module(path.replace("/", "."))
        source = Path(module.__file__).read_text()
        assert re.search(rf"(def|class) {name.rpartition('.')[2]}\b", source), name
    named = re.findall(r"`(test_\w+)`", text)
    assert len(named) >= 10
    for test in named:
        assert f"def {test}(" in tests
    for number in range(1, 12):
        assert f"| P{number} |" in text


def test_readme_has_the_commands_of_ci():
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci/run").read_text()
    assert "pip install -e '.[test]' && pytest" in readme
    assert "-e '.[test]' && pytest" in ci
    assert "pip install -e . && python launch.py --config=configs/phantom.py" in readme
    assert "in a virtual environment" in readme


def test_the_method_that_contributing_shows_is_the_file():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    shown = re.search(r"```python\n(.*?)```", text, re.S)[1]
    file = (ROOT / "fof_jax/methods/distill/sp.py").read_text()
    assert shown == file
    assert len(file.splitlines()) <= 60
