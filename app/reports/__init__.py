"""Reports: stored, found by user, and served."""
