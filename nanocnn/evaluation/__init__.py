"""Judging: a network and batches in, figures out."""
