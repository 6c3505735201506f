"""The version of this project, which the build takes from here."""

__version__ = "0.2.0"
