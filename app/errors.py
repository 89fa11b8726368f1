"""The error families of Sluice, in the caller's terms.

Each HTTP-facing error carries its problem type (RFC 9457): a stable name, a status and a title. What an error
says in ``detail`` goes to the client; ``internal`` goes to the log only. Foreign exceptions (drivers, the operating
system) are mapped to these in the one adapter that meets them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class SluiceError(Exception):
    """An error with an HTTP answer.

    detail: what went wrong and where, for the client.
    retry_after: seconds after which a retry makes sense, or None.
    headers: further response headers that the answer needs, such as ``Content-Range`` or ``Allow``.
    members: further members of the problem document (RFC 9457 3.2).
    internal: what only the log may say, such as a path.
    """

    name: ClassVar[str] = "internal"
    status: ClassVar[int] = 500
    title: ClassVar[str] = "Internal server error"

    def __init__(
        self,
        detail: str,
        *,
        retry_after: float | None = None,
        headers: Mapping[str, str] | None = None,
        members: Mapping[str, object] | None = None,
        internal: str | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.retry_after = retry_after
        self.headers: Mapping[str, str] = headers or {}
        self.members: Mapping[str, object] = members or {}
        self.internal = internal


# -- the client's mistakes ---------------------------------------------------------------------------------------------


class BadRequest(SluiceError):
    name, status, title = "bad-request", 400, "Bad request"


class BadDeadline(BadRequest):
    name, title = "bad-deadline", "Bad deadline"


class BadJson(BadRequest):
    name, title = "bad-json", "Bad JSON"


class BadIdempotencyKey(BadRequest):
    name, title = "bad-idempotency-key", "Bad idempotency key"


class BadUserId(BadRequest):
    name, title = "bad-user-id", "Bad user id"


class DigestMismatch(BadRequest):
    name, title = "digest-mismatch", "Digest mismatch"


class Forbidden(SluiceError):
    name, status, title = "forbidden", 403, "Forbidden"


class NotFound(SluiceError):
    name, status, title = "not-found", 404, "Not found"


class UnknownTask(NotFound):
    name, title = "unknown-task", "Unknown task"


class UnknownView(NotFound):
    name, title = "unknown-view", "Unknown view"


class JobNotFound(NotFound):
    name, title = "job-not-found", "Job not found"


class ReportNotFound(NotFound):
    name, title = "report-not-found", "Report not found"


class VersionNotFound(NotFound):
    name, title = "version-not-found", "Version not found"


class MethodNotAllowed(SluiceError):
    name, status, title = "method-not-allowed", 405, "Method not allowed"


class PreconditionFailed(SluiceError):
    name, status, title = "precondition-failed", 412, "Precondition failed"


class JobNotFinished(SluiceError):
    """Its result is asked for, and there is none yet, or will be none."""

    name, status, title = "job-not-finished", 409, "Job not finished"


class IdempotencyConflict(SluiceError):
    """A request with the same key is being answered."""

    name, status, title = "idempotency-conflict", 409, "Idempotency conflict"


class IdempotencyMismatch(SluiceError):
    """The key was used for another request."""

    name, status, title = "idempotency-mismatch", 422, "Idempotency mismatch"


class InvalidArguments(SluiceError):
    """members: ``errors``, a list of ``{"field": NAME, "detail": …}``."""

    name, status, title = "invalid-arguments", 422, "Invalid arguments"


class RequestTimeout(SluiceError):
    name, status, title = "request-timeout", 408, "Request timeout"


class BodyTooLarge(SluiceError):
    name, status, title = "body-too-large", 413, "Body too large"


class ExpansionTooLarge(SluiceError):
    """What was sent compressed is too much when it is not."""

    name, status, title = "expansion-too-large", 413, "Expansion too large"


class TargetTooLong(SluiceError):
    name, status, title = "target-too-long", 414, "Request target too long"


class UnsupportedMediaType(SluiceError):
    name, status, title = "unsupported-media-type", 415, "Unsupported media type"


class UnsupportedContentEncoding(SluiceError):
    name, status, title = "unsupported-content-encoding", 415, "Unsupported content encoding"


class RangeNotSatisfiable(SluiceError):
    name, status, title = "range-not-satisfiable", 416, "Range not satisfiable"


class HeadTooLarge(SluiceError):
    name, status, title = "head-too-large", 431, "Request head too large"


class NotImplementedHere(SluiceError):
    name, status, title = "not-implemented", 501, "Not implemented"


class VersionNotSupported(SluiceError):
    name, status, title = "version-not-supported", 505, "HTTP version not supported"


# -- ours --------------------------------------------------------------------------------------------------------------


class ReportUnreadable(SluiceError):
    name, status, title = "report-unreadable", 500, "Report unreadable"


class ReportsUnwritable(SluiceError):
    name, status, title = "reports-unwritable", 500, "Reports unwritable"


class TaskFailed(SluiceError):
    """The task raised; or, in the kinds below, could not go on. members: ``exception``, its class, where it raised."""

    name, status, title = "task-failed", 500, "Task failed"


class TaskOutOfMemory(TaskFailed):
    name, title = "task-out-of-memory", "Task out of memory"


class TaskOutOfTime(TaskFailed):
    """It took more of a processor than a task may."""

    name, title = "task-out-of-time", "Task out of processor time"


class TaskCancelled(TaskFailed):
    """Somebody ended it: of a job, whoever deleted it."""

    name, title = "task-cancelled", "Task cancelled"


class ResultUnusable(TaskFailed):
    """What the task returned is too large, or nothing that JSON has a word for."""

    name, title = "result-unusable", "Result unusable"


class WorkerCrashed(SluiceError):
    """members: ``signal``, such as SIGSEGV, or ``exit_code``."""

    name, status, title = "worker-crashed", 500, "Worker crashed"


class JobLost(SluiceError):
    """The instance that had it died."""

    name, status, title = "job-lost", 500, "Job lost"


class InsufficientStorage(SluiceError):
    name, status, title = "insufficient-storage", 507, "Insufficient storage"


class QueryFailed(SluiceError):
    """The database understood us and said no: our SQL, or data that a column refuses. Not a matter of time."""


class DuplicateKey(QueryFailed):
    """There is a row with that key already."""


# -- others' -----------------------------------------------------------------------------------------------------------


class UpstreamFailed(SluiceError):
    """A source that a view requires failed. members: ``sources``, what came of each."""

    name, status, title = "upstream-failed", 502, "Upstream failed"


class UpstreamTooLate(SluiceError):
    """Likewise, because there was no time left."""

    name, status, title = "upstream-timeout", 504, "Upstream too late"


# -- overloaded, away or too late --------------------------------------------------------------------------------------


BACKING_OFF = "backing off"
"""The ``internal`` reason of an error that only repeats one which has been logged."""


class DatabaseUnavailable(SluiceError):
    name, status, title = "database-unavailable", 503, "Database unavailable"


class Overloaded(SluiceError):
    name, status, title = "overloaded", 503, "Overloaded"


class ShuttingDown(SluiceError):
    name, status, title = "shutting-down", 503, "Shutting down"


class NotReady(SluiceError):
    name, status, title = "not-ready", 503, "Not ready"


class DeadlineExceeded(SluiceError):
    name, status, title = "deadline", 504, "Deadline exceeded"


# -- before there is a client ------------------------------------------------------------------------------------------


class StartError(Exception):
    """The start cannot go on. ``lines`` say why, each in one line of words for an operator, without traceback."""

    def __init__(self, *lines: str) -> None:
        super().__init__("; ".join(lines))
        self.lines = lines
