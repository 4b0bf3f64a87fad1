"""The TFDS dataset of a store: a record a region, in the table's order.

TFDS's own builder holds all records in memory, a GiB of them, and then wants TensorFlow
to put the rest on disk. So the shards are written here, a record at a time, and TFDS
writes the metadata that make them one of its datasets.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from array_record.python import array_record_module

from fof_jax.data import images, metadata
from fof_jax.data.cohort import Cohort

SPLIT = "train"  # a TFDS split may not be called "all"
NAME, VERSION = "regions", "1.0.0"
_SHARD = 2**28  # bytes of image files in a shard, about


def write_dataset(
    cohort: Cohort,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes shards and metadata of a cohort.

    Args:
      cohort: rows that `check_images` has found sound.
      folder: where the dataset goes; made if it is missing.
      progress: called with (done, of) after each image.

    Raises:
      ImageError: a file is not an image that is accepted.
    """
    folder.mkdir(parents=True, exist_ok=True)
    features, table = _features(cohort), metadata.from_cohort(cohort)
    shards = _shards([row.image.stat().st_size for row in cohort.rows])
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, split=SPLIT, filetype_suffix="array_record"
    )
    size = 0
    for k, rows in enumerate(shards):
        path = template.sharded_filepath(shard_index=k, num_shards=len(shards))
        # One record a group: read at random, none is decoded for its neighbours.
        writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
        try:
            for i in rows:
                data = features.serialize_example(_record(cohort, table, i))
                writer.write(data)
                size += len(data)
                if progress is not None:
                    progress(i + 1, len(cohort.rows))
        finally:
            writer.close()
    split = tfds.core.SplitInfo(
        name=SPLIT,
        shard_lengths=[len(rows) for rows in shards],
        num_bytes=size,
        filename_template=template,
    )
    tfds.folder_dataset.write_metadata(
        data_dir=str(folder),
        features=features,
        split_infos=[split],
        filename_template=template,
        description="Histology regions with grade and molecular biomarkers.",
        check_data=False,
    )


def _shards(sizes: list[int]) -> list[range]:
    """Rows of each shard, in order."""
    number = np.cumsum(sizes) // _SHARD
    starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    return [range(a, b) for a, b in zip(starts, starts[1:], strict=False)]


def _features(cohort: Cohort) -> tfds.features.FeaturesDict:
    n_biomarkers, n_floats = len(cohort.biomarkers), len(cohort.float_markers)
    features = tfds.features
    return features.FeaturesDict(
        {
            "image": features.Image(shape=(None, None, 3)),
            # Bytes of a PNG, or empty: TFDS has no optional image.
            "mask": features.Scalar(dtype=np.object_),
            "name": features.Text(),
            "patient": features.Text(),
            "grade": features.ClassLabel(names=list(cohort.classes)),
            "biomarkers": features.Tensor(shape=(n_biomarkers,), dtype=np.int32),
            "known": features.Tensor(shape=(n_biomarkers,), dtype=np.bool_),
            "floats": features.Tensor(shape=(n_floats,), dtype=np.float32),
        }
    )


def _record(cohort: Cohort, table: metadata.Metadata, i: int) -> dict[str, object]:
    row = cohort.rows[i]
    return {
        # Bytes: an array would have TFDS encode it with TensorFlow.
        "image": images.encode_region(row.image),
        "mask": images.encode_mask(row.mask) if row.mask else b"",
        "name": table.images[i],
        "patient": table.patients[i],
        "grade": int(table.grades[i]),
        "biomarkers": table.biomarker_values[i],
        "known": table.known[i],
        "floats": table.floats[i],
    }
