"""Writes the TFDS dataset of a store, one record per region in table order.

The builder of TFDS holds up to a GiB of records in memory and spills to disk with
TensorFlow. So the shards are written here, record by record, and TFDS writes only its
metadata files.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fof_jax.data import images, metadata
from fof_jax.data.cohort import Cohort

if TYPE_CHECKING:
    import tensorflow_datasets as tfds

SPLIT = "train"  # TFDS reserves the split name "all"
NAME, VERSION = "regions", "1.0.0"
_SHARD = 2**28  # approximate bytes of image files per shard


def write_dataset(
    cohort: Cohort,
    folder: Path,
    *,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes shards and metadata of a cohort.

    Args:
      cohort: rows that passed `check_images`.
      folder: of the dataset; created if missing.
      progress: called with (done, total) after each image.

    Raises:
      ImageError: a file is not a supported image.
    """
    import tensorflow_datasets as tfds  # commands that write no store do without
    from array_record.python import array_record_module

    folder.mkdir(parents=True, exist_ok=True)
    features, table = _features(cohort), metadata.from_cohort(cohort)
    shards = _shards([row.image.stat().st_size for row in cohort.rows])
    template = tfds.core.ShardedFileTemplate(
        data_dir=folder, dataset_name=NAME, split=SPLIT, filetype_suffix="array_record"
    )
    size = 0
    for k, rows in enumerate(shards):
        path = template.sharded_filepath(shard_index=k, num_shards=len(shards))
        # One record per group, so that random access decodes no neighbors.
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
    """Row range of each shard."""
    number = np.cumsum(sizes) // _SHARD
    starts = [0, *(np.flatnonzero(np.diff(number)) + 1).tolist(), len(sizes)]
    return [range(a, b) for a, b in zip(starts, starts[1:], strict=False)]


def _features(cohort: Cohort) -> "tfds.features.FeaturesDict":
    import tensorflow_datasets as tfds

    n_biomarkers, n_floats = len(cohort.biomarkers), len(cohort.float_markers)
    features = tfds.features
    return features.FeaturesDict(
        {
            "image": features.Image(shape=(None, None, 3)),
            # PNG bytes, or empty: TFDS has no optional images.
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
        # Bytes, since TFDS would encode arrays with TensorFlow.
        "image": images.encode_region(row.image),
        "mask": images.encode_mask(row.mask) if row.mask else b"",
        "name": table.images[i],
        "patient": table.patients[i],
        "grade": int(table.grades[i]),
        "biomarkers": table.biomarker_values[i],
        "known": table.known[i],
        "floats": table.floats[i],
    }
