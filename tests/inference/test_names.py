"""File names of any bytes in tables and as names of output files."""

import csv
import os
import shutil

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.main import main
from fof_jax.inference import names


@pytest.mark.parametrize(
    ("given", "stems"),
    [
        (["/data/x/a.png", "/data/x/b.png"], ["a", "b"]),
        (["a/x.png", "b/x.png"], ["a__x", "b__x"]),
        (["x.png", "x.jpg"], ["x.png", "x.jpg"]),
        (["a/b.png", "a__b.png"], ["a__b.png", "a__b.png-2"]),
        (["../x/a.png", "y/a.png"], ["..__x__a", "y__a"]),
        (["x.v1.png"], ["x.v1"]),
    ],
)
def test_output_names_are_unique(given, stems):
    assert names.stems(given) == stems


def test_a_long_name_is_cut_and_stays_its_own():
    """250 bytes leave no room for an ending and a temporary file's name."""
    long = ["脳" * 80 + end for end in ("a.png", "b.png")]
    found = names.stems(long)
    assert len(set(found)) == 2
    assert max(len(stem.encode()) for stem in found) <= 200


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"caf\xe9.png", r"caf\xe9.png"),
        ("café 脳.png".encode(), "café 脳.png"),
        (b"a\rb.png", r"a\rb.png"),
        (b"a\nb\t.png", r"a\nb\t.png"),
        ("a\u2028b.png".encode(), r"a\u2028b.png"),
        (b" a .png ", r"\x20a .png\x20"),
        (b"  ", r"\x20\x20"),
    ],
)
def test_names_in_tables_are_printable(raw, shown):
    assert names.printable(os.fsdecode(raw)) == shown


def test_names_of_one_printable_form_stay_apart():
    assert names.unique(["a", "a", "a~2", "b"]) == ["a", "a~3", "a~2", "b"]


@pytest.mark.slow
def test_file_names_of_any_bytes_are_graded(small_run, tmp_path):
    """Bytes that are not UTF-8, a carriage return, blanks, 250 characters."""
    odd = [b"caf\xe9.png", b"a\rb.png", b" c.png", b"x" * 246 + b".png"]
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    (tmp_path / "in").mkdir()
    for name in odd:
        shutil.copy(tmp_path / "a.png", os.fsencode(tmp_path / "in") + b"/" + name)
    (tmp_path / os.fsdecode(b"in/bro\xffken.png")).write_text("no")
    words = [f"--checkpoint={small_run}", f"--images={tmp_path / 'in'}"]
    assert main(["predict", *words, f"--out={tmp_path / 'out'}"]) == 0
    with (tmp_path / "out/predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    shown = [names.printable(os.fsdecode(name)) for name in odd]
    assert sorted(r["image"] for r in rows if not r["error"]) == sorted(shown)
    assert [r["image"] for r in rows if r["error"]] == [r"bro\xffken.png"]
    assert len({r["p_IV"] for r in rows if not r["error"]}) == 1
    assert len(list((tmp_path / "out/focus").iterdir())) == 4
    assert main(["explain", *words, f"--out={tmp_path / 'maps'}"]) == 0
    assert len(list((tmp_path / "maps").glob("*.npy"))) == 4
