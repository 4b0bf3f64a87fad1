"""Phantom: a synthetic cohort of H&E-like regions with known grades and masks."""
