"""Whether the process lives, and whether it can do its work: each dependency is really tried."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

import trio
from quart import Blueprint

from app.errors import NotReady, SluiceError
from app.flow.drain import DrainGate

type Check = Callable[[], Awaitable[None]]

_CHECK_SECONDS = 2.0


def health_blueprint(checks: Mapping[str, Check], gate: DrainGate) -> Blueprint:
    """``/healthz`` and ``/readyz``; ``checks`` by the name of the dependency that each asks."""
    blueprint = Blueprint("health", __name__)

    @blueprint.get("/healthz")
    async def alive() -> dict[str, str]:  # pyright: ignore[reportUnusedFunction]
        """Whether the process answers."""
        return {"status": "ok"}

    @blueprint.get("/readyz")
    async def ready() -> dict[str, object]:  # pyright: ignore[reportUnusedFunction]
        """Whether it can serve: the database, the reports folder and the workers are asked."""
        if gate.draining:
            raise NotReady("the server is shutting down", members={"checks": {}})
        results = await ask_all(checks)
        failing = sorted(name for name, result in results.items() if result["status"] != "ok")
        if failing:
            raise NotReady(f"failing: {', '.join(failing)}", retry_after=1, members={"checks": results})
        return {"status": "ok", "checks": results}

    return blueprint


async def ask_all(checks: Mapping[str, Check]) -> dict[str, dict[str, object]]:
    """Asks all at once, each for `_CHECK_SECONDS` at most; ``{"status": "ok" | "failing", "ms", "reason"}`` by name.

    Ending a query that hangs may take as long again: what was started here ends here.
    """
    results: dict[str, dict[str, object]] = {}

    async def ask(name: str, check: Check) -> None:
        began = trio.current_time()
        reason: str | None = f"no answer within {_CHECK_SECONDS:g} s"
        with trio.move_on_after(_CHECK_SECONDS):
            reason = await _failure(check)
        results[name] = {
            "status": "failing" if reason else "ok",
            "ms": round((trio.current_time() - began) * 1000, 3),
            **({"reason": reason} if reason else {}),
        }

    async with trio.open_nursery() as nursery:
        for name, check in checks.items():
            nursery.start_soon(ask, name, check)
    return dict(sorted(results.items()))


async def _failure(check: Check) -> str | None:
    try:
        await check()
    except SluiceError as error:
        return error.detail
    except OSError as error:
        return error.strerror or type(error).__name__
    return None
