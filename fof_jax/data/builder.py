"""The TFDS builder of a store: a record a region, in the table's order."""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from fof_jax.data import columns, images
from fof_jax.data.cohort import Cohort

SPLIT = "train"  # a TFDS split may not be called "all"


class Regions(tfds.core.GeneratorBasedBuilder):
    """Encodes a cohort's rows; `progress` is called with (done, of) after each."""

    VERSION = tfds.core.Version("1.0.0")
    # TFDS looks for a file of download checksums beside the code, and wants
    # importlib_resources for that, which it does not declare. There are no downloads.
    code_path = None

    def __init__(
        self,
        *,
        cohort: Cohort,
        progress: Callable[[int, int], None] | None = None,
        **kwargs: Any,
    ):
        self._cohort = cohort
        self._columns = columns.from_cohort(cohort)
        self._progress = progress
        super().__init__(**kwargs)

    def _info(self) -> tfds.core.DatasetInfo:
        n_biomarkers = len(self._cohort.biomarkers)
        features = tfds.features
        return tfds.core.DatasetInfo(
            builder=self,
            description="Histology regions with grade and molecular biomarkers.",
            disable_shuffling=True,  # position in the store = row of the table
            features=features.FeaturesDict(
                {
                    "image": features.Image(shape=(None, None, 3)),
                    # Bytes of a PNG, or empty: TFDS has no optional image.
                    "mask": features.Scalar(dtype=np.object_),
                    "name": features.Text(),
                    "patient": features.Text(),
                    "grade": features.ClassLabel(names=list(self._cohort.classes)),
                    "biomarkers": features.Tensor(
                        shape=(n_biomarkers,), dtype=np.int32
                    ),
                    "known": features.Tensor(shape=(n_biomarkers,), dtype=np.bool_),
                    "floats": features.Tensor(
                        shape=(len(self._cohort.float_markers),), dtype=np.float32
                    ),
                }
            ),
        )

    def _split_generators(self, dl_manager):
        return {SPLIT: self._generate_examples()}

    def _generate_examples(self) -> Iterator[tuple[int, dict[str, Any]]]:
        table, n = self._columns, len(self._columns)
        for i, row in enumerate(self._cohort.rows):
            yield (
                i,
                {
                    # Bytes: an array would have TFDS encode it with TensorFlow.
                    "image": images.encode_region(row.image),
                    "mask": images.encode_mask(row.mask) if row.mask else b"",
                    "name": table.images[i],
                    "patient": table.patients[i],
                    "grade": int(table.grades[i]),
                    "biomarkers": table.biomarker_values[i],
                    "known": table.known[i],
                    "floats": table.floats[i],
                },
            )
            if self._progress is not None:
                self._progress(i + 1, n)

    # TFDS would announce downloads on the terminal; there are none.
    def _log_download_bytes(self) -> None: ...

    def _log_download_done(self) -> None: ...
