"""Hypercorn's configuration, derived from Sluice's settings.

    hypercorn -c file:deploy/hypercorn.py app.asgi:app

What is given on Hypercorn's command line, such as ``-b`` and ``-w``, wins.
"""

from app.cli.serve import hypercorn_config

# Hypercorn takes every name of this module for one of its own, and pickles it to its workers.
globals().update(hypercorn_config())
del hypercorn_config
