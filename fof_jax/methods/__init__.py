"""Training methods, one file or folder per row of the paper's tables."""
