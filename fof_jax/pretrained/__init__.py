"""Encoders from elsewhere: files, names, position embeddings, a start for training."""
