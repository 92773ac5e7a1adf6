"""Captioners: labels, features and batches to train them on, and the jobs that do."""
