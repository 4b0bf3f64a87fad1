"""Predictions, metrics, confidence intervals, calibration, localization, tables."""
