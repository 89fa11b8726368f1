"""Sluice: reports over HTTP, on structured concurrency."""

__version__ = "0.1.0"
