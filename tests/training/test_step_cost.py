"""What must not change with speed: the recordings replayed on every path, and bf16.

Tolerances of the replays are those of `fof_jax.parity`; bfloat16 may move a loss of
the recordings by 2%.
"""

import functools
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import program
from fof_jax.models import attention, vit
from fof_jax.parity import paper_replay
from fof_jax.parity.paper_recording import Recording
from fof_jax.training import flops, parallel, prefetch
from fof_jax.types import Variables
from tests.support import methods

GOLDEN = Path(__file__).parents[1] / "golden"


def small_tiles(monkeypatch):
    """Recordings have few tokens: a tile of one row and three makes every loop run."""
    monkeypatch.setattr(attention, "tile_shape", lambda elements, rows, length: (1, 3))


# A policy recomputes whole blocks, whose loops are longest with small tiles.
PATHS = [("chunked", "none"), ("naive", "none")]
PATHS += [("small tiles", remat) for remat in vit.REMAT_POLICIES]


@pytest.mark.slow  # a replay compiles three programs: 8 s
@pytest.mark.parametrize(("path", "remat"), PATHS)
def test_recordings_replay_on_every_path_and_policy(monkeypatch, path, remat):
    implementation = "chunked" if path == "small tiles" else path
    if path == "small tiles":
        small_tiles(monkeypatch)
    options = {"implementation": implementation, "remat": remat}
    rows = paper_replay.replay(GOLDEN / "paper_a.npz", **options)
    assert not [row for row in rows if not row.ok]


@pytest.mark.slow  # as above
@pytest.mark.parametrize("name", ["paper_a.npz", "paper_b.npz"])
def test_recordings_replay_without_the_loop_over_blocks(name):
    rows = paper_replay.replay(GOLDEN / name, remat="none", unroll=12)
    assert not [row for row in rows if not row.ok]


def first_loss(recording, **options):
    method = recording.method(**options)
    variables = Variables(params=recording.params(method), state={})
    loss = functools.partial(method.loss, ctx=methods.CTX)
    return float(jax.jit(loss)(variables, recording.batch(0))[0])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["paper_a.npz", "paper_b.npz"])
def test_bfloat16_moves_the_loss_of_a_recording_by_at_most_two_per_cent(name):
    recording = Recording(GOLDEN / name)
    want = float(recording["steps/loss_total"][0])
    assert first_loss(recording) == pytest.approx(want, rel=1e-5)
    got = first_loss(recording, compute_dtype=jnp.bfloat16)
    assert got == pytest.approx(want, rel=0.02)
    assert got != want


# Without recomputation and as configured by default; the others take as long each.
@pytest.mark.slow
@pytest.mark.parametrize(
    "remat",
    [
        pytest.param(p, marks=[pytest.mark.slow] * (p not in ("none", "output")))
        for p in vit.REMAT_POLICIES
    ],
)
def test_the_compiled_step_has_the_flops_of_the_account(remat):
    # Long enough a sequence for attention to weigh as it does at full size.
    config = program.config(
        data_image_size=128, batch_size=1, encoder="mu/8", remat=remat
    )
    step = program.compile_step(config)
    size, patch = vit.parse_variant("mu/8")
    by_hand = program.account(size, patch, 128, remat=remat)
    got = flops.count(step.compiled.as_text())
    want = by_hand["step"] + by_hand["recomputed"]
    assert got == pytest.approx(want, rel=0.05)


@pytest.mark.slow
def test_the_full_size_step_has_the_flops_of_the_account_and_fits():
    config = program.config(data_image_size=1024, batch_size=1, remat="output")
    step = program.compile_step(config)
    by_hand = program.account(*vit.parse_variant("Ti/16"), 1024, remat="output")
    want = by_hand["step"] + by_hand["recomputed"]
    assert flops.count(step.compiled.as_text()) == pytest.approx(want, rel=0.01)
    assert step.compiled.memory_analysis().temp_size_in_bytes < 0.8 * 2**30


def test_batches_come_in_order_whatever_is_in_flight():
    batches = [
        program.batch(program.config(data_image_size=8, batch_size=2), seed=i)
        for i in range(4)
    ]
    devices = jax.local_devices()[:2]
    for ahead in (0, 1, 3, 9):
        taken = prefetch.Prefetch(
            batches, lambda b: parallel.place(b, devices), ahead=ahead
        )
        for want, (host, placed) in zip(batches, taken, strict=True):
            assert host is want
            assert placed.image.shape == (2, 1, 8, 8, 3)
            np.testing.assert_array_equal(placed.image[:, 0], want.image)
            assert len(placed.image.sharding.device_set) == 2
        assert taken.take_waited() > 0
        assert taken.waited == 0
    with pytest.raises(ValueError, match="ahead is -1"):
        prefetch.Prefetch(batches, lambda b: b, ahead=-1)


def test_placing_ahead_reads_no_more_than_asked():
    seen = []
    batch = program.batch(program.config(data_image_size=8, batch_size=1))

    def source():
        for i in range(5):
            seen.append(i)
            yield batch

    taken = prefetch.Prefetch(source(), lambda b: b, ahead=1)
    assert not seen
    next(taken)
    assert seen == [0, 1]
