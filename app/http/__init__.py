"""HTTP's semantics as pure functions: no Trio, no Quart, no I/O."""
