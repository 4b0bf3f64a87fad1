"""The pages tell the truth: links lead somewhere, commands parse, tables name code."""

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
    """Every `python launch.py …` in a code block, continuation lines joined."""
    for page in PAGES:
        for block in re.findall(r"```[a-z]*\n(.*?)```", page.read_text(), re.S):
            for line in block.replace("\\\n", " ").splitlines():
                _, found, words = line.partition("python launch.py ")
                if found and "…" not in words and "[" not in words:
                    yield pytest.param(words, id=f"{page.name}: {words[:50]}")


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#]+)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), target


@pytest.mark.parametrize("words", list(commands()))
def test_commands_name_verbs_and_fields_that_exist(words):
    words = shlex.split(words.replace("$SLURM_ARRAY_TASK_ID", "0"), comments=True)
    verb = words[0] if not words[0].startswith("-") else "train"
    assert verb in COMMANDS
    ours, _ = config.separate(words)
    if ours:
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


def test_the_readme_has_the_two_commands_that_ci_runs():
    readme = (ROOT / "README.md").read_text()
    ci = (ROOT / ".ci/run").read_text()
    assert "pip install -e '.[test]' && pytest" in readme
    assert "-e '.[test]' && pytest" in ci
    assert "pip install -e . && python launch.py --config=configs/phantom.py" in readme
    assert "in a virtual environment" in readme
