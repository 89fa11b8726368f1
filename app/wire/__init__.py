"""Serving under Hypercorn."""
