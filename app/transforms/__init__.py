"""Transforms: steps that turn bytes into other bytes as they come, and pipelines of them."""
