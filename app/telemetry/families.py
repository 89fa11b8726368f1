"""The metrics that there are: each family's name, kind, labels and meaning. The README's table is made of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from app.flow.histograms import SECONDS
from app.telemetry.lag import LAG_BUCKETS

type Kind = Literal["counter", "gauge", "histogram"]
type Merge = Literal["sum", "max", "min"]

OTHER = "other"
"""Stands for what is not told by its name, of which there may be any number."""


@dataclass(frozen=True, eq=False)
class Family:
    """meaning: in a line. labels: names, whose values are bounded in number. merge: what several workers' values come
    to. buckets: see `app.flow.histograms.Histogram`."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()
    merge: Merge = "sum"
    buckets: Sequence[float] = ()


FAMILIES: dict[str, Family] = {}
"""All of them, by name, in the order in which they are told."""


def _add(family: Family) -> Family:
    FAMILIES[family.name] = family
    return family


def _counter(name: str, meaning: str, *labels: str) -> Family:
    return _add(Family(name, "counter", meaning, labels))


def _gauge(name: str, meaning: str, *labels: str, merge: Merge = "sum") -> Family:
    return _add(Family(name, "gauge", meaning, labels, merge))


def _histogram(name: str, meaning: str, *labels: str, buckets: Sequence[float] = SECONDS) -> Family:
    return _add(Family(name, "histogram", meaning, labels, buckets=buckets))


# -- requests and connections ------------------------------------------------------------------------------------------

REQUESTS = _counter(
    "http_requests_total",
    "requests that ended, by how; route `unmatched`: at no route, or refused before there was one",
    *("method", "route", "status", "outcome"),
)
DURATION = _histogram(
    "http_request_duration_seconds", "from a request's head to the end of its answer", "method", "route"
)
FIRST_BYTE = _histogram(
    "http_first_byte_seconds", "from a request's head to the begin of its answer", "method", "route"
)
IN_FLIGHT = _gauge("http_requests_in_flight", "requests that run now")
RESPONSE_BYTES = _counter("http_response_bytes_total", "bytes of answers' bodies", "method", "route")
REQUEST_BYTES = _counter("http_request_bytes_total", "bytes of requests' bodies that were taken", "method", "route")
CONNECTIONS = _gauge(
    "sluice_connections",
    "client connections now; state `handshake`, `idle` or `active`, and `open` where no difference is made",
    *("protocol", "state"),
)
CONNECTIONS_MAX = _gauge("sluice_connections_max", "client connections that there may be")

# -- the database ------------------------------------------------------------------------------------------------------

DB_CONNECTIONS = _gauge("sluice_db_connections", "database connections that are open, `used` or `idle`", "state")
DB_CONNECTIONS_MAX = _gauge("sluice_db_connections_max", "database connections that there may be")
DB_WAITING = _gauge("sluice_db_waiting", "callers that wait for a database connection")
DB_WAIT = _histogram("sluice_db_wait_seconds", "from asking for a database connection to having one")
DB_QUERY = _histogram("sluice_db_query_seconds", "from a statement to its answer, or its first rows")
DB_KILLED = _counter(
    "sluice_db_queries_killed_total", "queries that were ended because nobody waited for them any more"
)

# -- threads and processes ---------------------------------------------------------------------------------------------

THREADS = _gauge("sluice_threads", "threads of a pool, `busy` or `free`", "pool", "state")
THREADS_WAITING = _gauge("sluice_threads_waiting", "calls that wait for a thread", "pool")
THREAD_WAIT = _histogram("sluice_thread_wait_seconds", "from asking for a thread to having one", "pool")
THREAD_UTILISATION = _gauge(
    "sluice_thread_pool_utilisation",
    "busy threads by those that there may be, of the busiest worker",
    "pool",
    merge="max",
)
COMPUTE_WORKERS = _gauge("sluice_compute_workers", "worker processes: `busy`, `idle`, or `starting`", "state")
COMPUTE_QUEUE = _gauge("sluice_compute_queue", "tasks that wait for a worker process")
COMPUTE_QUEUE_MAX = _gauge("sluice_compute_queue_max", "tasks that may wait")
COMPUTE_WAIT = _histogram("sluice_compute_wait_seconds", "from a task's admission to its begin")
COMPUTE_RUN = _histogram("sluice_compute_run_seconds", "from a task's begin to its end, as its worker has it", "task")
COMPUTE_KILLED = _counter(
    "sluice_compute_killed_total",
    "worker processes that were killed: as their request was `disconnected`, past its `deadline` or ended by the"
    " `shutdown`, as their task was `cancelled`, at their limit of `cpu` time, or `crashed` by something else",
    "reason",
)
JOBS = _gauge("sluice_jobs", "jobs that are queued or running", "state")
JOBS_ENDED = _counter("sluice_jobs_ended_total", "jobs that came to their end", "state")

# -- pipelines, upstreams, topics --------------------------------------------------------------------------------------

CHANNEL_BYTES = _gauge("sluice_channel_bytes", "bytes that are held between stages of pipelines")
TRANSFORM_BYTES = _counter("sluice_transform_bytes_total", "bytes that steps have given", "step")
UPSTREAM = _histogram(
    "sluice_upstream_seconds",
    "calls of upstreams; outcome `ok`, `cancelled`, `4xx`, `5xx`, or the reason why there is no value",
    *("view", "source", "outcome"),
)
BREAKER = _gauge(
    "sluice_breaker_state", "worker processes whose circuit breaker is in that state", "view", "source", "state"
)
SUBSCRIBERS = _gauge("sluice_live_subscribers", "subscribers now; topics that are not configured are `other`", "topic")
PUBLISHED = _counter("sluice_live_published_total", "events that were published, without derived ones")
DELIVERED = _counter("sluice_live_delivered_total", "events that subscribers were given")
DROPPED = _counter("sluice_live_dropped_total", "events that a subscriber did not get", "topic", "policy")

# -- the process -------------------------------------------------------------------------------------------------------

LOOP_LAG = _histogram(
    "sluice_loop_lag_seconds", "how late the event loop wakes a task that sleeps", buckets=LAG_BUCKETS
)
TASKS = _gauge("sluice_tasks", "Trio's tasks")
SPANS = _counter(
    "sluice_spans_total",
    "spans of traces, where they are on: `exported`, `dropped` (too many waited, or the collector did not take them),"
    " or `left_out` (their request had too many)",
    "outcome",
)
LOG_DROPPED = _counter("sluice_log_dropped_total", "lines of the log that were left out, as nobody took them in time")
WORKERS = _gauge("sluice_workers", "server processes, by whether they `answered` this scrape", "state")
CPU = _counter("process_cpu_seconds_total", "user and system time of the server processes")
RESIDENT = _gauge("process_resident_memory_bytes", "resident memory of the server processes")
VIRTUAL = _gauge("process_virtual_memory_bytes", "address space of the server processes")
START = _gauge("process_start_time_seconds", "when the oldest of them started, since the epoch", merge="min")
OPEN_FDS = _gauge("process_open_fds", "descriptors that they have open")
MAX_FDS = _gauge("process_max_fds", "descriptors that they may have open")
GC_COLLECTIONS = _counter("python_gc_collections_total", "runs of the garbage collector", "generation")
GC_OBJECTS = _counter("python_gc_objects_collected_total", "objects that it collected", "generation")
GC_UNCOLLECTABLE = _counter("python_gc_objects_uncollectable_total", "objects that it could not", "generation")
PYTHON = _gauge(
    "python_info",
    "the interpreter; always 1",
    *("implementation", "major", "minor", "patchlevel", "version"),
    merge="max",
)


def table() -> str:
    """Of all of them, in Markdown."""
    rows = [
        f"| `{family.name}` | {family.kind} | {', '.join(f'`{label}`' for label in family.labels)} | {family.meaning} |"
        for family in FAMILIES.values()
    ]
    return "\n".join(("| metric | kind | labels | meaning |", "|---|---|---|---|", *rows))
