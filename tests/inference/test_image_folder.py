"""What of a folder is graded: every file is an image once, or is named."""

import os
import struct

import numpy as np
import pytest
from PIL import Image

from fof_jax.cli.main import main
from fof_jax.inference.image_folder import list_images
from tests.support.cohort_files import pixels


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(pixels(0)).save(tmp_path / "1.png")
    Image.fromarray(pixels(1)).save(tmp_path / "a" / "2.png")
    return tmp_path


def listed(folder, **more):
    paths, notices = list_images(folder, **more)
    return [path.relative_to(folder).as_posix() for path in paths], notices


def test_links_to_folders_are_followed_once(folder, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    Image.fromarray(pixels(2)).save(elsewhere / "3.png")
    (folder / "out").symlink_to(elsewhere)
    (folder / "again").symlink_to(elsewhere)
    (folder / "a" / "loop").symlink_to(folder)
    (elsewhere / "back").symlink_to(folder / "a")
    found, notices = listed(folder)
    assert sorted(found) == ["1.png", "a/2.png", "again/3.png"]
    assert notices == [
        "links to folders that are listed, left out: a/loop, again/back, out"
    ]


def test_a_link_to_a_parent_ends(folder):
    (folder / "a" / "up").symlink_to(folder.parent)
    found, _ = listed(folder)
    assert {"1.png", "a/2.png"} <= set(found)
    assert len({os.path.realpath(folder / name) for name in found}) == len(found)


def test_links_to_images_are_graded_once_under_their_own_name(folder):
    (folder / "0.png").symlink_to(folder / "1.png")
    (folder / "gone.png").symlink_to(folder / "nowhere.png")
    found, notices = listed(folder)
    assert found == ["1.png", "a/2.png", "gone.png"]
    assert notices == ["links to images that are listed, left out: 0.png"]


SIGNATURES = {
    "scan": b"\x89PNG\r\n\x1a\n",
    "photo.dat": b"\xff\xd8\xff\xe0",
    "slide.raw": b"II+\0",
    "b.x": b"BM" + bytes(12),
    "w.x": b"RIFF\0\0\0\0WEBPVP8 ",
    "h.x": b"\0\0\0\x18ftypheic",
    "d": bytes(128) + b"DICM",
    "o.czi": b"ZISRAWFILE",
    "v.vsi": b"?",
    "n.jp2": b"?",
}


@pytest.mark.parametrize("name", list(SIGNATURES))
def test_files_that_could_be_images_are_rows(folder, name):
    (folder / name).write_bytes(SIGNATURES[name])
    (folder / ".hidden.png").write_bytes(b"")
    (folder / "notes.txt").write_text("BM is no image")
    found, notices = listed(folder)
    assert sorted(found) == sorted(["1.png", "a/2.png", name])
    assert notices == ["not images, left out: notes.txt"]


def dicom(series, more=b""):
    uid = series.encode()
    element = b"\x20\0\x0e\0UI" + struct.pack("<H", len(uid)) + uid
    return bytes(128) + b"DICM" + b"\x08\0\x60\0CS\x02\0SM" + element + more


def test_a_dicom_series_is_one_row(folder):
    for k, series in enumerate(["1.2.30", "1.2.30", "1.2.31"]):
        (folder / f"s{k}.dcm").write_bytes(dicom(series, bytes([k])))
    assert listed(folder)[0] == ["1.png", "a/2.png", "s0.dcm", "s2.dcm"]


def test_files_of_a_vms_slide_are_parts_of_it(folder):
    (folder / "s_0_0.jpg").write_bytes(b"\xff\xd8\xff")
    (folder / "s.vms").write_text(
        "[Virtual Microscope Specimen]\nImageFile=s_0_0.jpg\n"
    )
    assert listed(folder) == (["1.png", "a/2.png", "s.vms"], [])


def test_own_pictures_are_not_graded(small_run, small_pictures, tmp_path, capsys):
    folder = tmp_path / "images"
    folder.mkdir()
    Image.fromarray(next(iter(small_pictures.values()))).save(folder / "a.png")

    def run(verb, images, out):
        return main([verb, f"--checkpoint={small_run}/fold_0", f"--images={images}",
                     f"--out={out}"])  # fmt: skip

    assert run("explain", folder, folder / "maps") == 0
    assert run("predict", folder, folder / "first") == 0
    assert run("predict", folder, folder / "second") == 0
    lines = (folder / "second/predictions.csv").read_text().splitlines()
    assert len(lines) == 2
    assert "outputs of an earlier command, left out: first, maps" in (
        capsys.readouterr().err
    )
    for output in ("first", "first/focus", "maps"):
        assert run("predict", folder / output, tmp_path / "third") == 2
        assert "is the output of an earlier command" in capsys.readouterr().err
    # An output of an earlier version has no about.json.
    (folder / "first/about.json").unlink()
    assert list_images(folder)[0] == [folder / "a.png"]


def test_one_image_in_two_rows_of_a_table_is_an_error(folder, small_run, capsys):
    (folder / "link.png").symlink_to(folder / "1.png")
    for second in ("./1.png", "a/../1.png", "link.png"):
        (folder / "t.csv").write_text(f"image\n1.png\n{second}\n")
        words = [f"--images={folder / 't.csv'}", f"--out={folder / 'out'}"]
        assert main(["predict", f"--checkpoint={small_run}", *words]) == 2
        assert f"row 3: {second} is already in row 2" in capsys.readouterr().err


def test_arrays_are_not_images(folder):
    np.save(folder / "x.npy", np.zeros(3))
    assert listed(folder)[1] == ["not images, left out: x.npy"]
