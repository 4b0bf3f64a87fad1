"""Rows of the paper's tables that are not Focus on Focus, one file each."""
