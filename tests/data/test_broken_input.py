"""Thirty kinds of broken input through the command line, each with a clean twin.

Each kind spoils a sound cohort in one way. The command must leave with 2, one message
that names the error, and the store that was there before unchanged; the twin, spoiled
by nothing or mended, must pass.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from fof_jax.cli.main import main
from tests.support.bad_images import BAD_IMAGES
from tests.support.cohort_files import pixels, rows_of, write_cohort_files, write_table

pytestmark = pytest.mark.filterwarnings(
    "ignore:the load_module:DeprecationWarning"  # ml_collections 1.1
)
N = 12


def words(folder: Path, action: str, *more: str) -> list[str]:
    fixed = [
        f"--config.data.table={folder / 'table.csv'}",
        f"--config.data.dir={folder / 'data'}",
        "--config.data.image_size=20", "--config.data.biomarkers=('idh','EGFR')",
        "--config.folds=2", "--config.encoder=mu/4", "--config.batch_size=2",
    ]  # fmt: skip
    # A tuple that is given twice is joined, not replaced.
    named = {word.partition("=")[0] for word in more}
    fixed = [word for word in fixed if word.partition("=")[0] not in named]
    return ["data", action, "--config=configs/cohort.py", *fixed, *more]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.read_bytes())
        for p in sorted((folder / "data").rglob("*"))
        if p.is_file()
    }


def cell(column: str, value: str, row: int = 3):
    """Spoils one cell of the table."""

    def spoil(folder: Path) -> None:
        rows = rows_of(N)
        rows[row][column] = value
        write_table(folder, rows)

    return spoil


def column(name: str, values: list[str]):
    def spoil(folder: Path) -> None:
        rows = rows_of(N)
        for row, value in zip(rows, values, strict=True):
            row[name] = value
        write_table(folder, rows)

    return spoil


def without(name: str):
    def spoil(folder: Path) -> None:
        write_table(
            folder, [{k: v for k, v in r.items() if k != name} for r in rows_of(N)]
        )

    return spoil


def text(change):
    """Spoils the table's bytes."""

    def spoil(folder: Path) -> None:
        path = folder / "table.csv"
        path.write_bytes(change(path.read_bytes()))

    return spoil


def image(make):
    """Spoils the fourth image."""

    def spoil(folder: Path) -> None:
        path = folder / "img/003.png"
        path.unlink()
        make(path)

    return spoil


def mask(side: int, mode: str):
    def spoil(folder: Path) -> None:
        Image.new(mode, (side, side)).save(folder / "m.png")
        column("mask", ["m.png"] * N)(folder)

    return spoil


def directory(path: Path) -> None:
    path.mkdir()


TABLES = {
    "no such table": (lambda f: (f / "table.csv").unlink(), "cannot be read"),
    "empty table": (text(lambda b: b""), "no rows below a header"),
    "header alone": (text(lambda b: b.split(b"\n")[0]), "no rows below a header"),
    "not UTF-8": (text(lambda b: b.replace(b"P003", b"P\xe9")), "not UTF-8"),
    "UTF-16": (text(lambda b: b.decode().encode("utf-16")), "not UTF-8"),
    "no image column": (without("image"), "'image' is missing"),
    "no patient column": (without("patient"), "'patient' is missing"),
    "no grade column": (without("grade"), "'grade' is missing"),
    "no biomarker column": (without("EGFR"), "'EGFR' is missing"),
    "column twice": (
        text(lambda b: b.replace(b"idh,EGFR", b"idh,idh")),
        "occurs twice",
    ),
    "row too short": (text(lambda b: b.replace(b",II,", b",", 1)), "number of cells"),
    "empty image": (cell("image", ""), "no image"),
    "empty patient": (cell("patient", ""), "no patient"),
    "empty grade": (cell("grade", ""), "unknown grade"),
    "unknown grade": (cell("grade", "V"), "unknown grade"),
    "grade in lower case": (cell("grade", "iii"), "close: 'III'"),
    "biomarker not whole": (cell("EGFR", "0.5"), "biomarker not an integer"),
    "biomarker a word": (cell("EGFR", "mutant"), "biomarker not an integer"),
    "two sets of biomarkers": (cell("EGFR", "2"), "two sets of biomarkers"),
    "image twice": (cell("image", "img/002.png"), "same image twice"),
    "image twice by two paths": (cell("image", "img/../img/002.png"), "image twice"),
    "missing image": (cell("image", "img/999.png"), "missing file"),
    "fold not a number": (column("fold", ["0", "x"] * 6), "bad fold"),
    "fold missing": (column("fold", ["0", ""] * 6), "bad fold"),
    "mask of another size": (mask(9, "L"), "mask of another size"),
    "mask in color": (mask(20, "RGB"), "unsupported channels"),
}
IMAGES = {
    f"image: {name}": (image(make), kind) for name, (make, kind) in BAD_IMAGES.items()
} | {"image: a folder": (image(directory), "unreadable image")}
KINDS = TABLES | IMAGES


def test_there_are_thirty_kinds_and_more():
    assert len(KINDS) >= 30


@pytest.fixture(scope="module")
def sound(tmp_path_factory):
    """A sound cohort and the store of it."""
    folder = tmp_path_factory.mktemp("sound")
    write_cohort_files(folder, N)
    assert main(words(folder, "build")) == 0
    return folder


@pytest.fixture
def cohort(sound, tmp_path):

    folder = tmp_path / "cohort"
    shutil.copytree(sound, folder)
    return folder


@pytest.mark.parametrize("kind", list(KINDS))
def test_broken_and_mended(cohort, kind, capsys):
    spoil, output = KINDS[kind]
    before = snapshot(cohort)
    table = (cohort / "table.csv").read_bytes()
    spoil(cohort)
    for action in ("build", "check") if kind in TABLES else ("build",):
        assert main(words(cohort, action)) == 2
        out = capsys.readouterr()
        assert out.err.count("error: ") == 1
        assert output in out.err
        assert "Traceback" not in out.err
        assert snapshot(cohort) == before
    # The clean twin: the same files, without what was spoiled.
    for path in cohort.glob("img/*"):
        path.rmdir() if path.is_dir() else path.unlink()
    for i in range(N):
        Image.fromarray(pixels(i)).save(cohort / f"img/{i:03d}.png")
    (cohort / "table.csv").write_bytes(table)
    assert main(words(cohort, "build")) == 0
    assert "12 images of 6 patients" in capsys.readouterr().out


SETTINGS = {
    "small images under error": (
        ("--config.data.small=error", "--config.data.image_size=40"),
        ("--config.data.small=error",),
        "data.small='error' forbids",
    ),
    "no classes": (("--config.data.classes=()",), (), "two or more classes"),
    "a class twice": (
        ("--config.data.classes=('II','III','III','IV')",), (), "each name once"
    ),
    "no table named": (("--config.data.table=",), (), "data.table is not set"),
    "a store of another name": (
        ("--config.data.name=../mine",), (), "data.name is '../mine'; expected"
    ),
}  # fmt: skip
TRAINING = {
    "another scheme": (("--config.data.scheme=slide",), (), "data.scheme='slide'"),
    "too many folds": (
        ("--config.folds=7",), ("--config.folds=3",), "folds=7 with 6 patients"
    ),
    "no fold column": (("--config.data.scheme=fold",), (), "requires a column 'fold'"),
    "another stain": (
        ("--config.data.stain=vahadane",), ("--config.data.stain=macenko",),
        "data.stain='vahadane'",
    ),
    "another view": (
        ("--config.data.test_view=zoom",), ("--config.data.test_view=crop",),
        "data.test_view='zoom'",
    ),
    "other biomarkers than the store": (
        ("--config.data.biomarkers=('idh',)",), (), "data.biomarkers is"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", list(SETTINGS) + list(TRAINING))
def test_settings_that_do_not_fit(cohort, kind, capsys):
    action = "build" if kind in SETTINGS else "split"
    wrong, right, output = (SETTINGS | TRAINING)[kind]
    before = snapshot(cohort)
    assert main(words(cohort, action, *wrong)) == 2
    error = capsys.readouterr().err
    assert output in error
    assert error.count("error: ") == 1
    assert snapshot(cohort) == before
    assert main(words(cohort, action, *right)) == 0


@pytest.mark.parametrize("kind", ["unknown grade", "image: truncated PNG"])
def test_in_a_process_of_its_own(cohort, kind):
    spoil, output = KINDS[kind]
    root = Path(__file__).parents[2]

    assert main(words(cohort, "build")) == 0
    before = snapshot(cohort)
    spoil(cohort)
    done = subprocess.run(
        [sys.executable, "launch.py", *words(cohort, "build")],
        cwd=root, capture_output=True, text=True, env=os.environ, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("error: ") == 1
    assert output in done.stderr
    assert "Traceback" not in done.stderr
    assert snapshot(cohort) == before


FORMS = {
    "semicolons": lambda b: b.replace(b",", b";"),
    "byte order mark": lambda b: b"\xef\xbb\xbf" + b,
    "CR line ends": lambda b: b.replace(b"\r\n", b"\n").replace(b"\n", b"\r"),
    "a column more": lambda b: b.replace(b"\r\n", b"\n").replace(b"\n", b",x\n"),
    "umlauts": lambda b: b.replace(b"P003", "Pätient 3".encode()),
    "NaN": lambda b: b.replace(b",NA,", b",NaN,"),
}


@pytest.mark.parametrize("form", list(FORMS))
def test_tables_of_other_forms_pass(cohort, form, capsys):
    text(FORMS[form])(cohort)
    assert main(words(cohort, "build")) == 0
    assert "12 images of 6 patients" in capsys.readouterr().out


def test_cohorts_of_other_kinds_pass(tmp_path, capsys):
    """Two classes, three formats, no biomarkers, sizes that differ, folders."""
    (tmp_path / "a/b").mkdir(parents=True)
    rows = []
    for i in range(8):
        form, mode = [("png", "RGB"), ("png", "RGBA"), ("jpg", "RGB"), ("tif", "L")][
            i % 4
        ]
        image = Image.fromarray(pixels(i, 20 + i, 22)).convert(mode)
        image.save(tmp_path / f"a/b/{i}.{form}")
        grade = "high" if i > 3 else "low"
        rows.append({"image": f"a/b/{i}.{form}", "patient": f"{i}", "grade": grade})
    write_table(tmp_path, rows, delimiter=";")
    own = ("--config.data.classes=('low','high')", "--config.data.biomarkers=()",
           "--config.data.train_view=crop", "--config.data.test_view=crop")  # fmt: skip
    assert main(words(tmp_path, "build", *own)) == 0
    output = capsys.readouterr().out
    assert "8 images of 8 patients: low 4, high 4" in output
    assert "not square" not in output  # nothing is squeezed
    assert main(words(tmp_path, "check", *own)) == 0
    assert "no biomarkers: L_MCA, Eq. (5), is off" in capsys.readouterr().out
    assert main(words(tmp_path, "split", *own)) == 0
    assert "scheme patient: 0.0%" in capsys.readouterr().out
