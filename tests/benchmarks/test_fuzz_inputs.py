"""Mutated tables and image files through the commands; see the benchmark."""

import pytest

from benchmarks.robustness import fuzz_inputs


def test_every_row_is_graded_or_named(small_run, tmp_path):
    """Thirty tables and thirty files; the benchmark runs 300 of each."""
    counts = fuzz_inputs.outcomes(small_run, 30, 1, tmp_path)
    assert sum(counts["tables"].values()) == 30
    assert sum(counts["images"].values()) == 30
    assert counts["tables"][fuzz_inputs.MEANT] > 0
    assert counts["tables"][fuzz_inputs.REFUSED] > 0


def test_a_lost_row_is_a_fault(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_inputs, "mutated_table", lambda data, rng: data)
    monkeypatch.setattr(fuzz_inputs, "count_records", lambda data: 13)
    with pytest.raises(fuzz_inputs.Fault, match="12 rows of"):
        fuzz_inputs.outcomes(small_run, 1, 0, tmp_path)
