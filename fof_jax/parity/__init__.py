"""Replays of recordings of the paper's reference and of the authors' code."""
