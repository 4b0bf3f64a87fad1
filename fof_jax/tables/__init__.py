"""Rules that all tables share: CSV files, unknown cells, and who is one patient."""
