"""Focus on Focus (Pan et al., IEEE BIBM 2024) in JAX and Flax."""
