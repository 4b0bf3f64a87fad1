"""Selection of the best step, early stopping, and the fields that they refuse.

The reference is a loop over the values.
"""

import json

import numpy as np
import pytest

from fof_jax.training import option_ranges, selection


def made_of(metric="loss", patience=0):
    return selection.Selection(metric=metric, patience=4 * patience, per_epoch=4)


@pytest.mark.parametrize("metric", ["loss", "accuracy", "auc"])
def test_selection_against_a_loop(metric):
    rng = np.random.default_rng(3)
    for _ in range(20):
        made = made_of(metric, 3)
        best, best_step, since = None, None, 0
        for epoch in range(1, 12):
            value = float(rng.integers(5)) if epoch > 1 else float("nan")
            made.add(4 * epoch, {f"validation_{metric}": value})
            better = best_step is None or (
                value < best if metric == "loss" else value > best
            ) or best != best  # fmt: skip
            if better:
                best, best_step, since = value, 4 * epoch, 0
            else:
                since += 1
            assert made.best == best_step
            assert made.exhausted == (since >= 3)


def test_a_metric_that_is_undefined_is_refused():
    with pytest.raises(ValueError, match="auc is undefined"):
        made_of("auc").add(4, {"validation_loss": 1.0, "validation_accuracy": 0.5})


def test_selection_ignores_lines_after_the_checkpoint(tmp_path):
    lines = [{"step": 4 * k, "validation_loss": 1.0 / k} for k in (1, 2, 3)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 16, "valida')
    for first, best in ((8, 8), (12, 12), (0, None)):
        made = made_of()
        made.read(tmp_path / "metrics.jsonl", first)
        assert made.best == best


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"early_stopping": 3}, "without validation rows"),
        ({"validation": 1.0}, "less than 1"),
        ({"validation": 0.1, "validation_metric": "f1"}, "loss, accuracy, auc"),
        ({"validation": 0.1, "validation_every": 0}, "1 or more"),
    ],
)
def test_fields_that_do_not_fit_are_refused(fields, message):
    from fof_jax.configs import phantom

    config = phantom.get_config()
    config.update(fields)
    with pytest.raises(ValueError, match=message):
        option_ranges.check_ranges(config)
