"""Replays of recordings of the comparison rows."""
