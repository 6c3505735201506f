"""Errors and exit codes, signals, files that a crash leaves whole, start-up."""
