"""Bags: HDF5 files of patch features, checked, indexed, cached, padded and made."""
