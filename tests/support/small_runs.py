"""Words of the small runs that tests train, and what two equal runs have in common."""

from pathlib import Path

import numpy as np

from fof_jax.cli.main import main
from fof_jax.training import weights

ROOT = Path(__file__).parents[2]
SMALL = [
    f"--config={ROOT}/configs/phantom.py",
    "--config.folds=2",
    "--config.batch_size=4",
    "--config.encoder=mu/16",
    "--config.eval_batch_size=5",
]
# Six steps a fold, three checkpoints; an odd batch of evaluation is padded.
RESUMABLE = [
    *SMALL,
    "--config.data.regions=24",
    "--config.epochs=2",
    "--config.save_every=2",
    "--config.log_every=1",
    "--config.eval_every=1",
]
WORDS = {
    "small": [*SMALL, "--config.data.regions=18", "--config.epochs=1"],
    "resumable": RESUMABLE,
}
FILES = [
    "results.json",
    *(f"fold_{k}/{n}" for k in (0, 1) for n in ("metrics.jsonl", "predictions.csv")),
]


def words(data, workdir, *more):
    """The command of the resumable run, elsewhere or with other fields."""
    return [*RESUMABLE, f"--config.data.dir={data}", f"--workdir={workdir}", *more]


def launch(data, workdir, *more):
    """Exit code of that command."""
    return main(words(data, workdir, *more))


def assert_same(one, other):
    """Files equal as bytes, parameters number by number."""
    for name in FILES:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    for k in (0, 1):
        a, b = (weights.read(run / f"fold_{k}").params for run in (one, other))
        np.testing.assert_equal(a, b)
