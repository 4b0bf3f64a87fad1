"""Time and memory of the step, its parts, the input and prediction."""
