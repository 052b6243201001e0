"""Shared contracts and pure algorithms: everything that the stream, training and serving must agree on."""

__version__ = "0.1.0"
