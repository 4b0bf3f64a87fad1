"""Time and memory of the step, its parts, the input pipeline and inference."""
