"""Benchmarks; each file is a command of its own, see docs/performance.md."""
