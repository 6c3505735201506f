"""Data sets, own pictures, splits, batches, augmentation."""
