"""Data pipeline: cohort table, store, splits, batches, augmentation."""
