"""Training studies on the phantom: ablation, difficulty, loss terms."""
