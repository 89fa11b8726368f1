"""Topics: who publishes, who subscribes, and what those get to know who could not keep up."""
