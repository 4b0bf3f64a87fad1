"""Banks and draws of other rows, against loops and exact statements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from fof_jax.methods.distill import memory


def test_initial_banks_are_uniform_within_their_bound():
    banks = memory.initial(jax.random.key(0), rows=400, width=12)
    bound = 1 / np.sqrt(12 / 3)
    for name in ("student", "teacher"):
        assert banks[name].shape == (400, 12)
        assert np.abs(banks[name]).max() <= bound
        assert abs(banks[name].std() - bound / np.sqrt(3)) < 0.01
    assert not np.array_equal(banks["student"], banks["teacher"])
    assert not banks["Z"].any()


def test_store_positions_become_rows_of_the_fold():
    fold = jnp.array([2, 3, 7, 11])
    row = memory.rows_of(jnp.array([7, 2, 5, 11, 40]), fold)
    assert row.tolist() == [2, 0, 4, 3, 4]
    looked = memory.look_up(jnp.ones((4, 2)), row)
    assert np.isnan(looked).all(axis=1).tolist() == [False, False, True, False, True]


def test_a_bank_moves_to_unit_rows_and_the_last_of_two_counts():
    rng = np.random.default_rng(0)
    bank = rng.normal(size=(5, 3)).astype(np.float32)
    anchor = rng.normal(size=(3, 3)).astype(np.float32)
    row = np.array([4, 1, 4])
    new = memory.moved(
        bank=jnp.asarray(bank),
        row=jnp.asarray(row),
        anchor=jnp.asarray(anchor),
        momentum=0.9,
    )
    wanted = bank.copy()
    for b in range(3):
        v = 0.9 * bank[row[b]] + 0.1 * anchor[b]
        wanted[row[b]] = v / np.sqrt((v**2).sum())
    np.testing.assert_allclose(new, wanted, rtol=1e-6)


def test_a_bank_has_no_gradient():
    def total(anchor):
        new = memory.moved(
            bank=jnp.ones((4, 2)), row=jnp.array([1]), anchor=anchor, momentum=0.5
        )
        return new.sum()

    assert not jax.grad(total)(jnp.array([[1.0, 2.0]])).any()


def test_z_is_set_once_and_has_no_gradient():
    scores = jnp.array([[1.0, 2.0], [3.0, 4.0]])
    z = memory.normalizer(unset=jnp.zeros(()), scores=scores, rows=10)
    assert z == 25
    assert memory.normalizer(unset=z, scores=100 * scores, rows=10) == 25
    gradient = jax.grad(
        lambda s: memory.normalizer(unset=jnp.zeros(()), scores=s, rows=10)
    )(scores)
    assert not gradient.any()


def test_other_rows_are_any_but_the_own():
    row = jnp.array([0, 3, 5])
    idx = memory.other_rows(jax.random.key(1), row=row, rows=6, size=500)
    assert idx.shape == (3, 500)
    for b in range(3):
        assert set(idx[b].tolist()) == set(range(6)) - {int(row[b])}


@pytest.mark.parametrize("size", [3, 6])
def test_draws_are_distinct_where_there_are_enough(size):
    allowed = jnp.arange(8)[None] % 2 == jnp.array([[0], [1]])
    idx, count = memory.allowed_rows(jax.random.key(2), allowed=allowed, size=size)
    assert count.tolist() == [4, 4]
    for b in range(2):
        assert all(allowed[b, i] for i in idx[b].tolist())
        if size <= 4:
            assert len(set(idx[b].tolist())) == size


def test_few_candidates_come_in_turn_where_distinct():
    allowed = jnp.array([[True, False, True, True, False]])
    idx, count = memory.allowed_rows(
        jax.random.key(3), allowed=allowed, size=7, distinct=True
    )
    assert count.tolist() == [3]
    drawn = idx[0].tolist()
    assert sorted(drawn[:3]) == [0, 2, 3]
    assert drawn[3:6] == drawn[:3]


def test_no_candidate_draws_among_all_rows():
    idx, count = memory.allowed_rows(
        jax.random.key(4), allowed=jnp.zeros((1, 4), bool), size=50
    )
    assert count.tolist() == [0]
    assert set(idx[0].tolist()) <= set(range(4))
