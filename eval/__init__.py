"""Recall@K on anyone's data: ranks, metrics, datasets, runs and reports."""
