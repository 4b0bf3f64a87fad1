"""A build that is killed at any moment leaves nothing that the next one trips over."""

import os
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from fof_jax.data.cohort import read_cohort
from fof_jax.data.errors import MissingDataError
from fof_jax.data.store import build_store, open_store
from tests.support.cohort_files import BIOMARKERS, CLASSES, pixels, write_cohort_files

N = 40


@pytest.mark.slow
def test_kill_9_at_three_random_moments(tmp_path):
    table = write_cohort_files(tmp_path, N)
    script = textwrap.dedent(
        f"""
        from fof_jax.data.cohort import read_cohort
        from fof_jax.data.store import build_store
        tell = lambda done, of: print(done, flush=True)
        cohort = read_cohort({str(table)!r}, classes={CLASSES!r},
                             biomarkers={BIOMARKERS!r}, progress=tell)
        build_store(cohort, directory={str(tmp_path / "data")!r}, name="cohort",
                    image_size=20, progress=tell)
        """
    )
    home = tmp_path / "data/cohort/store"
    # Of 40 images checked and 40 stored; the third is after the last image, while
    # files are closed, renamed and indexed.
    rng = np.random.default_rng()
    moments = [rng.integers(1, N), rng.integers(N + 1, 2 * N), 2 * N]
    print("moments:", moments)
    for moment in moments:
        process = subprocess.Popen(
            [sys.executable, "-c", script], stdout=subprocess.PIPE, env={**os.environ}
        )
        with process, process.stdout:
            for _ in range(moment):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
        try:
            store = open_store(tmp_path / "data", "cohort")
        except MissingDataError:
            continue
        assert len(store) == N  # killed too late: it is whole
    cohort = read_cohort(table, classes=CLASSES, biomarkers=BIOMARKERS)
    build_store(cohort, directory=tmp_path / "data", name="cohort", image_size=20)
    store = open_store(tmp_path / "data", "cohort")
    left = sorted(p.name for p in home.iterdir())
    assert left == sorted([".lock", "current.json", store.folder.name])
    for i in range(N):
        np.testing.assert_array_equal(store.read(i, 20), pixels(i))
