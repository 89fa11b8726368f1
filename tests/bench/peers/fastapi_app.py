"""The report route in FastAPI on asyncmy: the same pool, look-up and reading as the other peers'. And a hello."""

# Runs in an environment of its own; the project's has none of these packages.
# pyright: basic, reportMissingImports=false

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import asyncmy
from anyio import to_thread
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import PlainTextResponse


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with asyncmy.create_pool(
        host=os.environ["DB_HOST"],
        port=int(os.environ["DB_PORT"]),
        user=os.environ["DB_USER"],
        password=os.environ["DB_PASS"],
        db=os.environ["DB_NAME"],
        maxsize=20,
        autocommit=True,
    ) as pool:
        app.state.pool = pool
        yield


app = FastAPI(lifespan=lifespan)


@app.get("/api/report/{user_id}")
async def report(user_id: str, request: Request) -> Response:
    async with request.app.state.pool.acquire() as connection, connection.cursor() as cursor:
        await cursor.execute("SELECT report_path FROM user_reports WHERE user_id = %s", (user_id,))
        row = await cursor.fetchone()
    if row is None:
        raise HTTPException(404, "Report not found")
    content = await to_thread.run_sync(Path(row[0]).read_bytes)
    return Response(content, media_type="application/pdf")


@app.get("/hello")
async def hello() -> PlainTextResponse:
    return PlainTextResponse("Hello, World!")
