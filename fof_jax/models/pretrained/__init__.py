"""Converters between published encoder weights and this package's parameters."""
