"""configs/comparison.py: every row on every data set, and the seed of the data."""

from pathlib import Path

import pytest
from ml_collections import ConfigDict

from fof_jax.cli import config
from fof_jax.configs import comparison
from fof_jax.data import prepare
from fof_jax.evaluation import published
from fof_jax.methods import registry

FILE = f"--config={Path(__file__).parents[2]}/configs/comparison.py"


@pytest.mark.parametrize("data", comparison.DATA)
def test_every_row_has_a_config_of_its_data_with_the_same_folds(data):
    for row in comparison.ROWS:
        made = config.load([f"{FILE}:{data}-{row}"])
        assert made.data.name == data
        assert (made.data.scheme, made.folds) == ("patient", 5)
        registry.find(made.method)
        of_gbmlgg = data == "gbmlgg" and published.label_of(row)
        assert made.paper_row == (of_gbmlgg or None)


def test_rows_of_one_data_set_differ_in_no_field_of_the_data():
    for data in ("phantom", "cohort"):
        first, *others = (
            comparison.get_config(f"{data}-{row}").data.to_dict()
            for row in comparison.ROWS
            if row != "release" or data == "phantom"
        )
        release = {"label_transform", "label_means", "label_stds"}
        for other in others:
            assert {k: v for k, v in other.items() if k not in release} == first


def test_arguments_may_be_left_out_and_others_are_refused():
    fof = comparison.get_config("phantom-fof").to_dict()
    assert comparison.get_config().to_dict() == fof
    assert comparison.get_config("phantom").to_dict() == fof
    assert comparison.get_config("vit").method == "vit"
    with pytest.raises(ValueError, match="'phantom-nothing' does not exist"):
        comparison.get_config("phantom-nothing")


def test_splits_have_a_seed_of_their_own():
    made = config.load([FILE, "--config.seed=7"])
    assert prepare.data_seed(made) == 7
    made.data.seed = 42
    assert prepare.data_seed(made) == 42
    earlier = ConfigDict({"seed": 7, "data": {"name": "phantom"}})
    assert prepare.data_seed(earlier) == 7
