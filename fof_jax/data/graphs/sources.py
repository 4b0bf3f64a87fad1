"""Where the cell graph of a region comes from: its image, a .pt file, a label map."""

import dataclasses
import hashlib
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image

from fof_jax.data import images
from fof_jax.data.errors import SHOWN, MissingDataError
from fof_jax.data.graphs import builder, pt_reader, record
from fof_jax.data.store import Store

Kind = Literal["builder", "pt", "labels"]
SUFFIXES = {"pt": (".pt",), "labels": (".npy", ".png", ".tif", ".tiff")}
# What segmenters and exports add to the name of an image.
ENDINGS = ("", "_cp_masks", "_masks", "_mask", "_labels", "_label", "-labels", "-mask")


@dataclasses.dataclass(frozen=True)
class Source:
    """How graphs are made.

    Attributes:
      kind: "builder" segments the image, "pt" reads files of Pathomic Fusion, "labels"
        label maps of any segmenter.
      folder: of the files; None for the builder.
      files: of the regions, in the order of the store; () for the builder.
      mpp: micrometers per pixel of the images; unused by "pt".
    """

    kind: Kind
    folder: Path | None = None
    files: tuple[Path, ...] = ()
    mpp: float = builder.MICROMETERS

    def origin(self) -> dict[str, Any]:
        """JSON values that identify the graphs: a change of a file changes them."""
        if self.kind == "builder":
            return {"kind": self.kind, "mpp": self.mpp, "neighbors": builder.NEIGHBORS}
        hasher = hashlib.sha256()
        for path in self.files:
            state = path.stat()
            hasher.update(f"{path.name} {state.st_size} {state.st_mtime_ns}\n".encode())
        of_labels = {"mpp": self.mpp, "neighbors": builder.NEIGHBORS}
        return {
            "kind": self.kind,
            "files": hasher.hexdigest()[:16],
            **(of_labels if self.kind == "labels" else {}),
        }


def find(store: Store, *, pt: Path | None, labels: Path | None, mpp: float) -> Source:
    """The source of a store's graphs, with the file of each region.

    A file has the name of its image without suffix, or the path of the image below the
    folder; label maps may have one of `ENDINGS`.

    Args:
      store: the regions.
      pt, labels: folder of .pt files or of label maps; at most one of them.
      mpp: micrometers per pixel of the images.

    Raises:
      ValueError: both folders.
      MissingDataError: regions without a file, or with several.
    """
    if pt is not None and labels is not None:
        raise ValueError("data graphs: got --pt and --labels, expected one of them.")
    folder = pt if pt is not None else labels
    if folder is None:
        return Source("builder", mpp=mpp)
    kind: Kind = "labels" if pt is None else "pt"
    if not folder.is_dir():
        raise MissingDataError(f"data graphs: --{kind}: {folder} is not a folder.")
    present = {p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES[kind]}
    by_stem: dict[str, list[Path]] = {}
    for path in sorted(present):
        stem = path.relative_to(folder).with_suffix("").as_posix()
        for name in {stem, path.stem}:
            by_stem.setdefault(name, []).append(path)
    files, wrong = [], []
    for image in store.images:
        candidates = _candidates(image, by_stem, kind)
        files += candidates[:1]
        if len(candidates) != 1:
            names = ", ".join(path.name for path in candidates[:3])
            wrong.append(f"  {image}: {names or 'no file'}")
    if wrong:
        more = f"\n  … and {len(wrong) - SHOWN} more" if len(wrong) > SHOWN else ""
        raise MissingDataError(
            f"data graphs: {len(wrong)} of {len(store)} regions do not have exactly "
            f"one file ({', '.join(SUFFIXES[kind])}) in {folder}:\n"
            + "\n".join(wrong[:SHOWN])
            + f"{more}\nName each file as its image: a.png and a{SUFFIXES[kind][0]}."
        )
    return Source(kind, folder, tuple(files), mpp)


def _candidates(image: str, by_stem: dict[str, list[Path]], kind: Kind) -> list[Path]:
    endings = ENDINGS if kind == "labels" else ("",)
    path = Path(image)
    for stem in (path.with_suffix("").as_posix(), path.stem):
        found = {p for end in endings for p in by_stem.get(stem + end, ())}
        if found:
            return sorted(found)
    return []


def graph_of(store: Store, row: int, source: Source) -> record.CellGraph:
    """The graph of one region; one without nodes where no nucleus was found.

    Colors are those stored, before stain normalization.

    Raises:
      ValueError: the image or its file cannot be used; names the image.
    """
    try:
        if source.kind == "pt":
            return pt_reader.read(source.files[row])
        rgb = images.decode(store.encoded(row))
        return builder.build(rgb, label_map(source, row), mpp=source.mpp)
    except builder.NoNucleusError:
        return record.empty(builder.COLUMNS)
    except ValueError as error:
        raise ValueError(f"{store.images[row]}: {error}") from error


def label_map(source: Source, row: int) -> np.ndarray | None:
    """The label map of a region; None where the source has none."""
    return read_labels(source.files[row]) if source.kind == "labels" else None


def read_labels(path: Path) -> Annotated[np.ndarray, "int64 [H, W]"]:
    """Reads a label map: 0 for background, a positive integer for each nucleus.

    Args:
      path: NPY, PNG or TIFF with one channel.

    Raises:
      ValueError: another format, or a mask in which all nuclei have one number.
    """
    expected = (
        "Expected one channel of integers, 0 for background and another number for "
        "each nucleus (NPY, or PNG or TIFF of 8, 16 or 32 bits)."
    )
    try:
        if path.suffix.lower() == ".npy":
            labels = np.load(path, allow_pickle=False)
        else:
            with images.quiet_decoding(), Image.open(path) as image:
                labels = np.array(image)
    except Exception as error:  # PIL and NumPy raise many kinds
        raise ValueError(f"{path} cannot be read ({error}). {expected}") from error
    if labels.ndim != 2 or labels.dtype.kind not in "iuf":
        raise ValueError(f"{path}: {labels.dtype} of shape {labels.shape}. {expected}")
    whole = labels.astype(np.int64)
    if labels.dtype.kind == "f" and not np.array_equal(whole, labels):
        raise ValueError(f"{path}: numbers that are not whole. {expected}")
    if len(np.unique(whole)) == 2:
        _require_one_object(whole > 0, path)
    return whole


def _require_one_object(inside: np.ndarray, path: Path) -> None:
    from scipy import ndimage

    count = ndimage.label(inside, np.ones((3, 3)))[1]
    if count > 1:
        raise ValueError(
            f"{path}: a mask of {count} objects with one number, expected another "
            "number for each nucleus. Export labels, or number the mask's components."
        )
