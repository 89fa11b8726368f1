"""Loaded last by the process that those for calls are copies of: what is there by now stays as it is.

A copy shares its memory until it is written to, and a collection of garbage writes to every object that it looks at.
"""

import gc

gc.collect()
gc.freeze()
