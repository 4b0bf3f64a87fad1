"""Abstention against cases counted by hand, and a plain loop over all thresholds."""

import dataclasses
import json

import numpy as np
import pytest
from scipy import stats

from fof_jax.cli.main import main
from fof_jax.evaluation import abstention
from fof_jax.evaluation.predictions import (
    UNKNOWN,
    Predictions,
    read_predictions,
    write_predictions,
)

CLASSES = ("II", "III", "IV")


def table_of(y, prob, classes=CLASSES):
    n = len(y)
    return Predictions(
        patient=tuple(f"p{i // 2}" for i in range(n)),
        image=tuple(f"{i}.png" for i in range(n)),
        fold=np.zeros(n, np.int64),
        y=np.array(y),
        prob=np.array(prob, float),
        error=("",) * n,
        classes=classes,
    )


# Margins 0.75, 0.625, 0.375, 0.125 and 0.125; the third and the last are wrong. In the
# order of the margin the risks are 0, 0, 1/3 and, of all five, 2/5.
BY_HAND = table_of(
    [0, 1, 1, 2, 0],
    [
        [0.875, 0.125, 0.0],
        [0.125, 0.75, 0.125],
        [0.625, 0.25, 0.125],
        [0.125, 0.375, 0.5],
        [0.25, 0.3125, 0.4375],
    ],
)


@pytest.mark.parametrize(
    ("error", "answered", "errors", "margin"),
    [
        (0.0, 2, 0, 0.625),
        (0.3, 2, 0, 0.625),
        (0.34, 3, 1, 0.375),
        (0.4, 5, 2, 0.0),
        (0.9, 5, 2, 0.0),
    ],
)
def test_the_margin_is_that_counted_by_hand(error, answered, errors, margin):
    rule = abstention.choose(BY_HAND, error=error, way="margin", unit="region")
    assert (rule.answered, rule.rows, rule.margin) == (answered, 5, margin)
    assert rule.risk == errors / answered
    assert rule.coverage == answered / 5


def random_table(seed, n=60):
    rng = np.random.default_rng(seed)
    score = rng.normal(size=(n, 3))
    y = rng.integers(0, 3, n)
    score[np.arange(n), y] += 1
    prob = np.exp(score)
    prob = np.round(prob / prob.sum(axis=1, keepdims=True), 1) + 0.01  # many ties
    return table_of(y, prob / prob.sum(axis=1, keepdims=True))


def loop_best(score, wrong, error):
    """Largest number of rows answered by any threshold with this risk."""
    best = 0
    for threshold in set(score.tolist()):
        inside = [w for s, w in zip(score, wrong, strict=True) if s >= threshold]
        if sum(inside) <= error * len(inside):
            best = max(best, len(inside))
    return best


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("error", [0.05, 0.15, 0.3])
def test_no_threshold_answers_more_at_this_risk(seed, error):
    table = random_table(seed)
    wrong = table.pred != table.y
    by_margin = abstention.choose(table, error=error, way="margin", unit="region")
    ordered = np.sort(table.prob, axis=1)
    margin = ordered[:, 2] - ordered[:, 1]
    assert by_margin.answered == loop_best(margin, wrong, error)
    by_class = abstention.choose(table, error=error, way="probability", unit="region")
    answered = ~by_class.abstains(table.prob)
    for k in range(3):
        inside = table.pred == k
        expected = loop_best(table.prob[inside, k], wrong[inside], error)
        assert answered[inside].sum() == expected
    for rule in (by_margin, by_class):
        answered = ~rule.abstains(table.prob)
        assert answered.sum() == rule.answered
        if rule.answered:
            assert rule.risk == wrong[answered].mean() <= error
            # The bound: as many errors or fewer have a probability of 5%.
            errors = int(wrong[answered].sum())
            tail = stats.binom.cdf(errors, rule.answered, rule.risk_upper)
            assert tail == pytest.approx(0.05, abs=1e-6)


def test_a_rule_that_answers_nothing_says_never():
    rule = abstention.choose(BY_HAND, error=0.1, way="margin", unit="region")
    none = dataclasses.replace(rule, margin=2.0, answered=0, coverage=0.0, risk=None)
    assert abstention.format_rules([none]).splitlines()[-1].endswith("never")


def test_coverage_and_risk_of_every_margin():
    table = random_table(1)
    coverage, risk = abstention.coverage_risk(table.y, table.prob)
    margin = abstention.margins(table.prob)
    wrong = table.pred != table.y
    expected = []
    for threshold in sorted(set(margin.tolist()), reverse=True):
        inside = margin >= threshold
        expected.append((inside.mean(), wrong[inside].mean()))
    np.testing.assert_allclose(np.stack([coverage, risk], axis=1), expected)
    assert risk[-1] == wrong.mean()
    assert abstention.area(np.array([0.5, 1.0]), np.array([0.0, 0.2])) == 0.1


def test_rows_of_nan_and_rules_that_never_answer():
    table = table_of([1, 1], [[0.9, 0.1, 0.0], [0.8, 0.1, 0.1]])  # all wrong
    rule = abstention.choose(table, error=0.1, way="margin", unit="region")
    assert (rule.answered, rule.risk, rule.risk_upper) == (0, None, None)
    assert rule.abstains(table.prob).all()
    assert not rule.abstains(np.full((2, 3), np.nan)).any()
    assert rule.abstains(np.zeros((0, 3))).shape == (0,)


def test_bad_input_names_the_remedy(tmp_path):
    with pytest.raises(ValueError, match="--abstain_error=0.1"):
        abstention.choose(BY_HAND, error=10.0, way="margin", unit="region")
    unlabeled = table_of([UNKNOWN], [[0.5, 0.3, 0.2]])
    with pytest.raises(ValueError, match="labeled"):
        abstention.choose(unlabeled, error=0.1, way="margin", unit="region")
    rule = abstention.choose(BY_HAND, error=0.1, way="margin", unit="region")
    with pytest.raises(ValueError, match="classes II, III, IV"):
        rule.require(("a", "b"))
    (tmp_path / "a.json").write_text('{"abstention": []}')
    with pytest.raises(ValueError, match="holds no rule"):
        abstention.read(tmp_path / "a.json")


def test_eval_writes_the_rules_that_predict_reads(tmp_path, capsys):
    table = random_table(3)
    write_predictions(tmp_path / "p.csv", table)
    words = ["--abstain_error=0.1", "--abstain_by=probability"]
    path = tmp_path / "eval.json"
    assert main(
        ["eval", f"--predictions={tmp_path / 'p.csv'}", *words, f"--out={path}"]
    ) == 0  # fmt: skip
    assert "Abstention, chosen on these rows" in capsys.readouterr().out
    rules = abstention.read(path)
    assert set(rules) == {"region", "patient"}
    table = read_predictions(tmp_path / "p.csv")  # of nine digits
    expected = abstention.choose(table, error=0.1, way="probability", unit="region")
    assert rules["region"] == expected
    written = json.loads(path.read_text())["abstention"]
    assert written == json.loads(json.dumps(abstention.to_json(list(rules.values()))))
