"""A run: its folder, record and checkpoints, and how it goes on."""
