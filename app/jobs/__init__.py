"""Work that outlives its request: its state, progress and result are kept in the database."""
