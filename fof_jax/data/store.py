"""Image store: a cohort as a TFDS dataset of ArrayRecord files with random access.

Layout of `directory/name/store/`:

    current.json            name of the current build
    <digest>/columns.json   metadata, image sizes, read options
    <digest>/regions/1.0.0/ TFDS dataset: encoded images and metadata; no such folder
                            for bags, whose files stay where they are (`bags/index.py`)

Builds are staged and renamed when complete. Reading does not need TensorFlow.
"""

import dataclasses
import functools
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int, UInt8

from fof_jax import files
from fof_jax.data import images, metadata
from fof_jax.data.bags import index as bag_index
from fof_jax.data.bags.index import BagIndex
from fof_jax.data.cohort import Cohort
from fof_jax.data.errors import MissingDataError
from fof_jax.data.image_sizes import check_sizes, measure
from fof_jax.data.read_options import ReadOptions
from fof_jax.data.store_writer import NAME, SPLIT, VERSION, write_dataset

_FORMAT = 1  # layout version; stores of another one must be rebuilt
_STAGING = ".building-"


class Records:
    """Records of a build by position; its files are opened when one is first read."""

    def __init__(self, folder: Path):
        self._folder = folder

    @functools.cached_property
    def _source(self):
        import tensorflow_datasets as tfds  # only where images are read

        builder = tfds.builder_from_directory(_dataset_folder(self._folder))
        skip = {"image": tfds.decode.SkipDecoding()}
        return builder.as_data_source(split=SPLIT, decoders=skip)

    def __getitem__(self, i: int) -> dict[str, Any]:
        return self._source[i]

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (self._folder,)  # a worker process opens the files itself


@dataclasses.dataclass(frozen=True, eq=False)
class Store(metadata.Metadata):
    """A built cohort: metadata, and images by position.

    Attributes:
      folder: folder of the build.
      records: its images and masks, encoded.
      sizes: height and width as stored; 0 for bags.
      has_mask: True where a ground-truth mask exists.
      origin: provenance, identifies how the store was built.
      options: how images are read.
      bags: HDF5 files of patch features in the place of images; None for images.
      max_tokens: most patches of a bag in training; None for all.
    """

    folder: Path
    records: Records
    sizes: Int[np.ndarray, "n 2"]
    has_mask: Bool[np.ndarray, " n"]
    origin: str
    options: ReadOptions = dataclasses.field(default=ReadOptions(), kw_only=True)
    bags: BagIndex | None = dataclasses.field(default=None, kw_only=True)
    max_tokens: int | None = dataclasses.field(default=None, kw_only=True)

    def encoded(self, i: int) -> bytes:
        """PNG or JPEG bytes of image i."""
        return self._record(i)["image"]

    def _record(self, i: int) -> dict[str, Any]:
        if self.bags is not None:
            raise ValueError(
                f"store: {self.folder} holds patch features of {len(self)} bags, "
                "expected images. Pass a config of images."
            )
        try:
            return self.records[i]
        # Checksum errors of ArrayRecord, and errors of truncated shards.
        except (RuntimeError, IndexError, OSError, ValueError) as error:
            raise ValueError(
                f"store: image {self.images[i]} cannot be read, a file below "
                f"{self.folder} is damaged ({str(error).splitlines()[0][:120]}). "
                f"Remove {self.folder.parent}; the next command builds the phantom "
                "again, other stores are built by python launch.py data build."
            ) from error

    def native(self, i: int) -> UInt8[np.ndarray, "H W 3"]:
        """Decodes image i at its stored size and applies stain normalization."""
        return self.options.load(images.decode(self.encoded(i)))

    def read(self, i: int, image_size: int) -> UInt8[np.ndarray, "S S 3"]:
        """Reads image i at image_size x image_size with the test view.

        Raises:
          ValueError: the image is smaller and `options.small` is `error`.
        """
        return self.options.square(
            self.native(i),
            image_size,
            name=self.images[i],
            corner=self.options.test_corner,
        )

    def read_mask(self, i: int, image_size: int) -> Bool[np.ndarray, "S S"] | None:
        """Reads the mask of image i with the test view; None if it has none."""
        if not self.has_mask[i]:
            return None
        mask = self._record(i)["mask"]
        return self.options.mask(mask, image_size, name=self.images[i])


def _home(directory: Path | str, name: str) -> Path:
    return Path(directory) / name / "store"


def _dataset_folder(folder: Path) -> Path:
    return folder / NAME / VERSION


def _digest(cohort: Cohort) -> str:
    """Hashes metadata and file contents."""
    digest = hashlib.sha256(metadata.from_cohort(cohort).table_hash.encode())
    digest.update(str(_FORMAT).encode())
    if cohort.bags is not None:
        digest.update(cohort.bags.digest().encode())
        return digest.hexdigest()[:16]
    for row in cohort.rows:
        for path in (row.image, row.mask):
            if path is not None:
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]


def build_store(
    cohort: Cohort,
    *,
    directory: Path | str,
    name: str,
    small: str = "resize",
    image_size: int,
    views: tuple[str, str] = ("resize", "resize"),
    origin: str = "",
    progress: Callable[[int, int], None] | None = None,
) -> Path:
    """Builds a store, unless the same cohort has been built already.

    Holds a lock and removes partial builds of killed processes. Encoded bytes are
    kept where `data.images` supports them. Of bags only the index is stored.

    Args:
      cohort: rows that passed `check_images`, or with an index of `check_bags`.
      directory: folder of all stores (`data.dir`).
      name: of this store.
      small: `resize`, `pad` or `error` for images smaller than the target. Applied
        when reading, since a store serves any size; checked here for `image_size`.
      image_size: target size for which to warn.
      views: `train_view` and `test_view` for which to warn.
      origin: provenance, identifies how the store was built.
      progress: called with (done, total) after each image.

    Returns:
      The folder of the build.

    Warns:
      DataWarning: lists images that are smaller than the target or not square.

    Raises:
      ValueError: small images under `error`; an unknown `small`; an empty cohort.
      ImageError: a file is not a supported image.
    """
    if not cohort.rows:
        raise ValueError(f"The cohort for store '{name}' has no rows.")
    table, bags = metadata.from_cohort(cohort), cohort.bags
    if bags is None:
        sizes = measure(cohort)
        check_sizes(
            sizes, table.images, small=small, image_size=image_size, views=views
        )
        has_mask = [row.mask is not None for row in cohort.rows]
    else:
        sizes, has_mask = np.zeros((len(bags), 2), int), bags.has_mask.tolist()
    home = _home(directory, name)
    with files.file_lock(home / ".lock"):
        for stale in home.glob(f"{_STAGING}*"):
            shutil.rmtree(stale)
        folder = home / _digest(cohort)
        if not folder.exists():
            _build(cohort, folder, progress)
        document = {
            "format": _FORMAT,
            "small": small,
            "origin": origin,
            "table_hash": table.table_hash,
            "sizes": sizes.tolist(),
            "has_mask": has_mask,
            **metadata.to_json(table),
        }
        if bags is not None:
            document["bags"] = bags.to_json()
        files.write_text(folder / "columns.json", json.dumps(document))
        files.write_text(home / "current.json", json.dumps({"build": folder.name}))
    return folder


def _build(
    cohort: Cohort, folder: Path, progress: Callable[[int, int], None] | None
) -> None:
    staging = Path(tempfile.mkdtemp(dir=folder.parent, prefix=_STAGING))
    os.chmod(staging, 0o755)  # mkdtemp creates folders with mode 0700
    try:
        if cohort.bags is None:
            write_dataset(cohort, _dataset_folder(staging), progress=progress)
        os.rename(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def build_command(name: str) -> str:
    """The command that builds a store, for messages.

    That of a table depends on its file, classes and columns, not on its name alone.
    """
    if name in ("gbmlgg", "phantom"):
        return f"python launch.py data build --config=configs/{name}.py"
    return "python launch.py data build --config=…, with the same --config arguments"


def open_store(directory: Path | str, name: str, *, build: str | None = None) -> Store:
    """Opens a build of a store without reading images.

    Args:
      directory: folder of all stores (`data.dir`).
      name: of the store.
      build: name of the build's folder, a hash; None: the current build.

    Returns:
      The store.

    Raises:
      MissingDataError: the store is missing or incomplete; says how to build it.
    """
    home = _home(directory, name)
    remedy = f"Build it: {build_command(name)}"
    if not (home / "current.json").exists():
        raise MissingDataError(f"There is no store '{name}' in {directory}. {remedy}")
    try:
        current = json.loads((home / "current.json").read_text())["build"]
        folder = home / (build or current)
        data = json.loads((folder / "columns.json").read_text(encoding="utf-8"))
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']}, expected {_FORMAT}")
        store = Store(
            **metadata.fields_from_json(data),
            folder=folder,
            records=Records(folder),
            options=ReadOptions(small=data["small"]),
            sizes=np.array(data["sizes"], np.int32),
            has_mask=np.array(data["has_mask"], bool),
            origin=data["origin"],
            bags=bag_index.from_json(data["bags"]) if "bags" in data else None,
        )
        if store.table_hash != data["table_hash"]:
            raise ValueError("columns.json was changed after the build")
        dataset = _dataset_folder(folder) / "dataset_info.json"
        if store.bags is None and not dataset.exists():
            raise ValueError(f"{_dataset_folder(folder)} is missing")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise MissingDataError(
            f"The store '{name}' in {home} is incomplete ({error}). Remove that "
            f"folder. {remedy}"
        ) from None
    return store
