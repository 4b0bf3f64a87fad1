"""From a cohort table to batches: table, store, splits, loader, augmentation."""
