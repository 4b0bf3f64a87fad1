"""Config fields of the authors' method that depend on the data."""

from ml_collections import ConfigDict

from fof_jax.methods.release import labels
from fof_jax.types import DatasetInfo


def check(config: ConfigDict, info: DatasetInfo) -> None:
    """Checks the fields that only the authors' method reads or refuses.

    Raises:
      ValueError: no process, a term without the columns it needs, or class weights.
    """
    if config.world_size_emulated < 1:
        raise ValueError(
            f"world_size_emulated: got {config.world_size_emulated}, expected 1 "
            "or more processes."
        )
    for field, weight, columns, names in (
        ("lambda_dis_gene", config.lambda_dis_gene, "biomarkers", info.biomarkers),
        (
            "lambda_float_gene",
            config.lambda_float_gene,
            "float_markers",
            info.float_markers,
        ),
    ):
        if weight and not names:
            raise ValueError(
                f"{field}: got {weight}, but data.{columns} names no column. Name "
                f"some, or pass --config.{field}=0."
            )
    if config.data.class_weights:
        raise ValueError(
            "data.class_weights: the authors' code has none. Leave it False for "
            "method 'release'."
        )


def label_statistics(
    config: ConfigDict, info: DatasetInfo
) -> tuple[str, tuple[float, ...], tuple[float, ...]]:
    """Transform of the discrete genes, and its means and standard deviations (Q27).

    Raises:
      ValueError: a label transform without its statistics.
    """
    transform = config.data.label_transform
    means, stds = config.data.label_means, config.data.label_stds
    if transform == "zscore_trunc" and not means:
        if info.biomarker_values is None:  # a trained model: its loss is not computed
            transform = "raw"
        else:
            means, stds = labels.fit(info.biomarker_values)
    labels.check(
        name=transform,
        means=tuple(means),
        stds=tuple(stds),
        num_biomarkers=len(info.biomarkers),
    )
    return transform, tuple(means), tuple(stds)
