"""Use of trained models: loading, preprocessing, prediction, explanation, export."""
