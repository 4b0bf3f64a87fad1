"""Robustness to killed processes and damaged files."""
