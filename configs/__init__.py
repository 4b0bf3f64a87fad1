"""Configurations: `--config=configs/NAME.py[:ARGUMENT]`, or `--config=NAME`."""
