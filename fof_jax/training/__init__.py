"""Training of one fold and of all folds: step, optimizer, checkpoints, processes."""
