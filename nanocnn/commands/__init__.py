"""The verbs of `nanocnn`, one file each."""
