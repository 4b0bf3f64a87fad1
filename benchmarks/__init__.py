"""Benchmarks; each file is a command, see docs/performance.md."""
