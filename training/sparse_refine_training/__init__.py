"""Trains the two networks of a `sparse_refine` bundle and writes the bundle: see training/README.md."""

__version__ = "0.1.0"
