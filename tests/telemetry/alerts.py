"""Of each alert: series under which it fires, and such under which it does not, in promtool's notation."""

from __future__ import annotations

type Series = dict[str, str]

_FOR = "x40"  # minutes


def _rising(name: str, labels: str, by: float) -> Series:
    return {f'{name}{{instance="i",{labels}}}': f"0+{by:g}{_FOR}"}


def _at(name: str, labels: str, value: float) -> Series:
    return {f'{name}{{instance="i"{"," if labels else ""}{labels}}}': f"{value:g}+0{_FOR}"}


def _requests(route: str = "/r", **by_outcome: float) -> Series:
    found: Series = {}
    for outcome, by in by_outcome.items():
        found |= _rising("http_requests_total", f'route="{route}",outcome="{outcome}"', by)
    return found


def _took(name: str, labels: str, fast: float, slow: float) -> Series:
    """So many a minute within 1 ms, and so many in 10 s."""
    more = f",{labels}" if labels else ""
    return {
        f'{name}_bucket{{instance="i"{more},le="0.001"}}': f"0+{fast:g}{_FOR}",
        f'{name}_bucket{{instance="i"{more},le="10.0"}}': f"0+{fast + slow:g}{_FOR}",
        f'{name}_bucket{{instance="i"{more},le="+Inf"}}': f"0+{fast + slow:g}{_FOR}",
    }


def _once(name: str, labels: str) -> Series:
    """Rises by one, a few minutes ago."""
    return {f'{name}{{instance="i",{labels}}}': "0+0x24 1+0x15"}


ALERTS: dict[str, tuple[Series, Series]] = {
    "SluiceDown": (_at("up", 'job="sluice"', 0), _at("up", 'job="sluice"', 1)),
    "SluiceErrors": (_requests(ok=95, error=5), _requests(ok=995, error=5, client_error=500, disconnected=100)),
    "SluiceSlow": (
        _took("http_first_byte_seconds", 'route="/r"', 90, 10),
        _took("http_first_byte_seconds", 'route="/r"', 999, 1)
        | _took("http_first_byte_seconds", 'route="/api/live/{topic}"', 0, 10),
    ),
    "SluiceSheds": (_requests(ok=95, overloaded=1), _requests(ok=95, overloaded=0)),
    "SluiceDeadlines": (_requests(ok=95, deadline=5), _requests(ok=995, deadline=5)),
    "SluiceConnectionsNearlyAll": (
        _at("sluice_connections", 'protocol="http/1.1",state="idle"', 90) | _at("sluice_connections_max", "", 100),
        _at("sluice_connections", 'protocol="http/1.1",state="idle"', 10) | _at("sluice_connections_max", "", 100),
    ),
    "SluiceDescriptorsNearlyAll": (
        _at("process_open_fds", 'job="sluice"', 90) | _at("process_max_fds", 'job="sluice"', 100),
        _at("process_open_fds", 'job="sluice"', 10) | _at("process_max_fds", 'job="sluice"', 100),
    ),
    "SluiceDatabaseSaturated": (
        _at("sluice_db_connections", 'state="used"', 20)
        | _at("sluice_db_connections_max", "", 20)
        | _at("sluice_db_waiting", "", 3),
        _at("sluice_db_connections", 'state="used"', 20)
        | _at("sluice_db_connections_max", "", 20)
        | _at("sluice_db_waiting", "", 0),
    ),
    "SluiceDatabaseWaits": (_took("sluice_db_wait_seconds", "", 90, 10), _took("sluice_db_wait_seconds", "", 999, 1)),
    "SluiceThreadsSaturated": (
        _at("sluice_thread_pool_utilisation", 'pool="files"', 1) | _at("sluice_threads_waiting", 'pool="files"', 2),
        _at("sluice_thread_pool_utilisation", 'pool="files"', 1)
        | _at("sluice_threads_waiting", 'pool="files"', 0)
        | _at("sluice_threads_waiting", 'pool="database"', 2),
    ),
    "SluiceComputeQueueNearlyFull": (
        _at("sluice_compute_queue", "", 9) | _at("sluice_compute_queue_max", "", 10),
        _at("sluice_compute_queue", "", 1) | _at("sluice_compute_queue_max", "", 10),
    ),
    "SluiceLoopLags": (_took("sluice_loop_lag_seconds", "", 90, 10), _took("sluice_loop_lag_seconds", "", 999, 1)),
    "SluiceWorkersCrash": (
        _once("sluice_compute_killed_total", 'reason="crashed"'),
        _once("sluice_compute_killed_total", 'reason="disconnected"'),
    ),
    "SluiceJobsLost": (
        _once("sluice_jobs_ended_total", 'state="lost"'),
        _once("sluice_jobs_ended_total", 'state="failed"'),
    ),
    "SluiceBreakerOpen": (
        _at("sluice_breaker_state", 'view="v",source="s",state="open"', 1),
        _at("sluice_breaker_state", 'view="v",source="s",state="closed"', 1)
        | _at("sluice_breaker_state", 'view="v",source="s",state="open"', 0),
    ),
    "SluiceSubscribersTooSlow": (
        _rising("sluice_live_dropped_total", 'topic="t",policy="drop-oldest"', 1),
        _rising("sluice_live_dropped_total", 'topic="t",policy="coalesce"', 1),
    ),
    "SluiceWorkerSilent": (_at("sluice_workers", 'state="silent"', 1), _at("sluice_workers", 'state="answered"', 2)),
}
