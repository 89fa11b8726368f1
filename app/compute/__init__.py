"""Work that takes a processor, in worker processes: tasks, and the engine that runs them."""

from app.compute.tasks import Cancelled, StoredReport, checkpoint, progress, span, task

__all__ = ["Cancelled", "StoredReport", "checkpoint", "progress", "span", "task"]
