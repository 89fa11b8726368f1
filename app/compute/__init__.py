"""Work that takes a processor, in worker processes: tasks, and the engine that runs them."""
