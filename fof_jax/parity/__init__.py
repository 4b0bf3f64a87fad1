"""Replays of recordings of a reference implementation and of the authors' code."""
