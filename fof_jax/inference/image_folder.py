"""Lists the images of a folder: which files are images, and what is left out.

Every file below the folder is an image to grade, a part of a slide that is listed, or
named in a notice. Hidden files and folders are not looked at.
"""

import json
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from fof_jax.data.errors import shortened
from fof_jax.inference.names import printable
from fof_jax.inference.outputs import ABOUT_FILE, PLOTS, STAGING, USE

# Whole-slide formats; tiled and pyramidal TIFFs are recognized by their tags.
SLIDES = (".svs", ".ndpi", ".mrxs", ".scn", ".bif", ".vms", ".vmu", ".svslide")
DICOM = (".dcm", ".dicom")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", *SLIDES, *DICOM)
# Formats that are not read: rows with an error, not silently skipped.
_OTHERS = tuple(
    ".bmp .gif .webp .jp2 .heic .avif .jxl .jfif .psd .dng .czi .vsi .zvi .lif .nd2"
    " .isyntax .qptiff".split()
)
# First bytes of images, whatever the file is called.
_SIGNATURES = (
    b"\x89PNG\r\n",
    b"\xff\xd8\xff",
    b"II*\0",
    b"MM\0*",
    b"II+\0",
    b"MM\0+",
    b"GIF8",
    b"\0\0\0\x0cjP",
    b"\xff\x4f\xff\x51",
    b"8BPS",
    b"ZISRAWFILE",
    b"\0\0\0\x0cJXL ",
)
_BRANDS = (b"WEBP", b"ftyp")  # at byte 8 of RIFF, at byte 4 of HEIC and AVIF
_SERIES = re.compile(rb"\x20\x00\x0e\x00(?:UI(..)|(..)\x00\x00)([0-9.]+)", re.DOTALL)
_SERIES_BYTES = 2**16  # of a DICOM file, in which its series is named


def list_images(
    folder: Path, *, exclude: Path | None = None
) -> tuple[list[Path], list[str]]:
    """Lists the images below a folder, each once, sorted.

    Links to folders are followed, unless the folder is listed anyway, so that a loop of
    links ends. Outputs of `predict` and `explain` are not images.

    Args:
      folder: searched recursively.
      exclude: a folder to skip, such as the output folder.

    Returns:
      The files, and a notice for every kind of file that is left out.

    Raises:
      ValueError: a folder cannot be read.
    """
    walk = _Walk(folder, exclude)
    walk.run()
    notices = [
        f"{what}, left out: {shortened(sorted(names))}"
        for what, names in walk.left_out.items()
    ]
    return sorted(walk.images), notices


def is_output(folder: Path) -> bool:
    """Whether `predict`, `explain` or `eval` wrote a folder, or is writing it."""
    if folder.name == PLOTS and is_output(folder.parent):
        return True
    if (folder / STAGING / "job.json").is_file():
        return True
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
        return about["use"] == USE and "command" in about
    except (OSError, ValueError, KeyError, TypeError):
        # Of versions without about.json.
        tables = ("predictions.csv", "patients.csv")
        return all((folder / name).is_file() for name in tables) and (
            (folder / PLOTS).is_dir()
        )


def is_dicom(path: Path) -> bool:
    """Whether a file begins as DICOM files do."""
    return _head(path, 132)[128:] == b"DICM"


class _Walk:
    """State of one search."""

    def __init__(self, root: Path, exclude: Path | None):
        self.root = root
        self.excluded = exclude.resolve() if exclude is not None else None
        self.folders: set[Path] = set()  # visited, resolved
        self.files: set[Path] = set()  # of `images`, resolved
        self.series: set[str] = set()  # of DICOM files in `images`
        self.images: list[Path] = []
        self.left_out: dict[str, list[str]] = {}

    def run(self) -> None:
        """Walks the folder, then what links point to and has not been visited."""
        folders, links = [self.root], []
        while folders:
            for parent, names in self._folders(folders.pop(0)):
                paths = [parent / name for name in names]
                links += [path for path in paths if path.is_symlink()]
                self._add_files(parent)
            while links and not folders:
                link = links.pop(0)
                if link.resolve() in self.folders:
                    self._leave_out("links to folders that are listed", link)
                else:
                    folders.append(link)

    def _folders(self, top: Path) -> Iterator[tuple[Path, list[str]]]:
        """Visits folders below one, without following links."""

        def raise_unreadable(error: OSError) -> None:
            raise ValueError(
                f"images: the folder {error.filename} cannot be read "
                f"({error.strerror}). Change its permissions, or list the images in a "
                "CSV."
            )

        for name, folders, _ in os.walk(top, onerror=raise_unreadable):
            parent = Path(name)
            self.folders.add(parent.resolve())
            folders[:] = sorted(f for f in folders if self._enters(parent / f))
            yield parent, list(folders)
            folders[:] = [f for f in folders if not (parent / f).is_symlink()]

    def _enters(self, folder: Path) -> bool:
        if folder.name.startswith(".") or folder.resolve() == self.excluded:
            return False
        # MIRAX stores a slide's data, which includes JPEGs, in a folder of its name.
        if any(folder.with_name(folder.name + s).is_file() for s in (".mrxs", ".MRXS")):
            return False
        if is_output(folder):
            self._leave_out("outputs of an earlier command", folder)
            return False
        if not folder.is_symlink() and folder.resolve() in self.folders:
            self._leave_out("folders that are listed already", folder)
            return False
        return True

    def _add_files(self, parent: Path) -> None:
        names = sorted(entry.name for entry in os.scandir(parent) if not entry.is_dir())
        parts = _parts_of_slides(parent, names)
        # Links last, so that an image is listed under its own name.
        for path in sorted((parent / n for n in names), key=lambda p: p.is_symlink()):
            if path.name.startswith(".") or path.name in parts:
                continue
            if not (path.suffix.lower() in (*SUFFIXES, *_OTHERS) or _is_image(path)):
                self._leave_out("not images", path)
            elif path.resolve() in self.files:
                self._leave_out("links to images that are listed", path)
            elif self._is_new(path):
                self.files.add(path.resolve())
                self.images.append(path)

    def _is_new(self, path: Path) -> bool:
        """False for a DICOM file of a series that is listed: a slide has several."""
        series = _series(path) if is_dicom(path) else None
        if series is None:
            return True
        if series in self.series:
            return False
        self.series.add(series)
        return True

    def _leave_out(self, what: str, path: Path) -> None:
        name = printable(path.relative_to(self.root).as_posix())
        self.left_out.setdefault(what, []).append(name)


def _is_image(path: Path) -> bool:
    head = _head(path, 132)
    return (
        head.startswith(_SIGNATURES)
        or head[8:12] == _BRANDS[0]
        or head[4:8] == _BRANDS[1]
        or (head[:2] == b"BM" and head[6:10] == bytes(4))
        or head[128:] == b"DICM"
    )


def _series(path: Path) -> str | None:
    """SeriesInstanceUID (0020,000E) of a DICOM file."""
    match = _SERIES.search(_head(path, _SERIES_BYTES))
    return match[3].decode() if match else None


def _parts_of_slides(parent: Path, names: Sequence[str]) -> set[str]:
    """Files that a Hamamatsu VMS or VMU index names: parts of that slide."""
    parts: set[str] = set()
    for name in names:
        if name.lower().endswith((".vms", ".vmu")):
            index = _head(parent / name, _SERIES_BYTES).decode("latin-1")
            parts.update(re.findall(r"(?m)^\w+(?:\([\d,]+\))?=(.+?)\s*$", index))
    return parts & set(names)


def _head(path: Path, size: int) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(size)
    except OSError:
        return b""
