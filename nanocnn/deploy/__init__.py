"""Trained networks at work: on new pictures, and as files that need nothing of this package."""
