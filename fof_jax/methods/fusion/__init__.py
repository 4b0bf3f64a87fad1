"""Rows of Table II that read images and omics, one fusion module a file."""
