"""``/api/reports``: pages, and all rows in one stream; over each kind of database and table."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.reports.entries import Entry
from app.reports.listing import Listing, cursor_of, user_of
from app.settings import DatabaseSettings
from app.storage.database import Database
from tests.conftest import open_adopted
from tests.exchange import Answer, Fields, ask
from tests.faults.traffic import RawClient, wait_until
from tests.mariadb import MariaDb, environment
from tests.processes import SluiceProcess, run, running
from tests.reports.conftest import Site

_INSERT = "INSERT INTO user_reports (user_id, report_path) VALUES (?, ?)"
_COLUMNS = ["user_id", "size", "media_type", "etag", "last_modified", "version"]


async def _fill(database: Database, users: list[str]) -> None:
    async with database.transaction() as transaction:
        for user in users:
            await transaction.execute(_INSERT, (user, f"{user}.pdf"))


async def _pages(listing: Listing, limit: int) -> list[list[str]]:
    """The users of each page."""
    pages: list[list[str]] = []
    after: str | None = None
    while True:
        page = await listing.page(limit, after)
        pages.append([entry.user_id for entry in page.entries])
        if page.next is None:
            return pages
        after = user_of(cursor_of(page.next))


def _users(pages: list[list[str]]) -> list[str]:
    return list(chain.from_iterable(pages))


async def _streamed(listing: Listing) -> list[Entry]:
    async with listing.stream() as batches:
        return [entry async for batch in batches for entry in batch]


# -- pages and streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 1000])
async def test_pages_hold_each_report_once_and_in_order(database: Database, limit: int) -> None:
    users = ["A", "B", "a", "a.b", "b", "b-", "z" * 128]
    await _fill(database, users[::-1])
    pages = await _pages(Listing(database), limit)
    assert _users(pages) == sorted(users)
    assert {len(page) for page in pages[:-1]} <= {limit}
    assert len(pages) == -(-len(users) // limit)


async def test_where_there_is_nothing_a_page_is_empty_and_the_last(database: Database) -> None:
    listing = Listing(database)
    assert await _pages(listing, 10) == [[]]
    assert await _streamed(listing) == []
    await _fill(database, ["a"])
    assert await listing.page(10, "a") == await listing.page(10, "zzz")


async def test_what_is_added_or_removed_between_two_pages_does_not_shift_the_others(database: Database) -> None:
    listing = Listing(database)
    await _fill(database, ["b", "d", "f", "h"])
    page = await listing.page(2, None)
    await _fill(database, ["a", "e"])
    await database.execute("DELETE FROM user_reports WHERE user_id = 'd'")
    rest = await listing.page(10, page.next)
    assert [entry.user_id for entry in (*page.entries, *rest.entries)] == ["b", "d", "e", "f", "h"]


async def test_a_stream_has_every_row_in_order(database: Database) -> None:
    users = [f"user-{number:04}" for number in range(1234)]
    await _fill(database, users)
    assert [entry.user_id for entry in await _streamed(Listing(database))] == users


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_of_several_rows_of_one_user_the_last_is_listed(database_settings: DatabaseSettings, limit: int) -> None:
    async with open_adopted(database_settings, "user_id VARCHAR(50), report_path VARCHAR(200)") as database:
        for user, path in [("b", "1"), ("a", "2"), ("b", "3"), ("c", "4"), ("b", "5"), ("a", "6")]:
            await database.execute(_INSERT, (user, path))
        listing = Listing(database)
        assert _users(await _pages(listing, limit)) == ["a", "b", "c"]
        paths = [(entry.user_id, entry.path) for entry in (await listing.page(10, None)).entries]
        assert paths == [("a", "6"), ("b", "5"), ("c", "4")]
        assert [entry.user_id for entry in await _streamed(listing)] == ["a", "b", "c"]


@pytest.mark.parametrize("limit", [1, 2, 3, 4, 100])
async def test_where_case_does_not_matter_to_the_table_no_report_is_left_out(
    mysql_settings: DatabaseSettings, limit: int
) -> None:
    columns = "user_id VARCHAR(50), report_path VARCHAR(200)"
    async with open_adopted(mysql_settings, columns, "COLLATE utf8mb4_general_ci") as database:
        users = ["bob", "ada", "Bob", "BOB", "eve", "Ada", "bob"]
        for user in users:
            await database.execute(_INSERT, (user, "x"))
        listed = _users(await _pages(Listing(database), limit))
        assert sorted(listed) == sorted(set(users))


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_a_table_of_numbers_is_listed_in_their_order(database_settings: DatabaseSettings, limit: int) -> None:
    async with open_adopted(database_settings, "user_id INT PRIMARY KEY, report_path VARCHAR(200)") as database:
        for number in (100, 7, -3, 20):
            await database.execute(_INSERT, (number, "x"))
        assert _users(await _pages(Listing(database), limit)) == ["-3", "7", "20", "100"]


@pytest.mark.parametrize("key", ["", ", UNIQUE (user_id)", ", KEY (user_id)"])
async def test_where_case_does_not_matter_a_stream_tells_each_user_once_and_no_page_is_empty(
    mysql_settings: DatabaseSettings, key: str
) -> None:
    columns = f"user_id VARCHAR(50), report_path VARCHAR(200){key}"
    async with open_adopted(mysql_settings, columns, "COLLATE utf8mb4_general_ci") as database:
        users = (
            ["ada", "Bob", "eve"] if "UNIQUE" in key else ["bob", "Bob", "bob", "BOB", "ada", "Bob", "eve", "EVE"] * 3
        )
        for user in users:
            await database.execute(_INSERT, (user, "x"))
        listing = Listing(database)
        streamed = [entry.user_id for entry in await _streamed(listing)]
        assert sorted(streamed) == sorted(set(users))
        for limit in range(1, len(users) + 2):
            pages = await _pages(listing, limit)
            assert all(pages)
            assert sorted(_users(pages)) == sorted(set(users))


async def test_a_table_without_regard_to_case_is_listed_likewise_when_it_is_embedded(
    sqlite_settings: DatabaseSettings,
) -> None:
    columns = "user_id VARCHAR(50) COLLATE NOCASE, report_path VARCHAR(200)"
    async with open_adopted(sqlite_settings, columns) as database:
        users = ["bob", "Bob", "bob", "BOB", "ada", "Bob"]
        for user in users:
            await database.execute(_INSERT, (user, "x"))
        listing = Listing(database)
        assert [entry.user_id for entry in await _streamed(listing)] == ["ada", "BOB", "Bob", "bob"]
        for limit in range(1, 8):
            pages = await _pages(listing, limit)
            assert all(pages)
            assert sorted(_users(pages)) == sorted(set(users))


@pytest.mark.parametrize("limit", [1, 2, 3, 100])
async def test_rows_that_name_no_user_or_no_file_are_not_listed(
    database_settings: DatabaseSettings, limit: int
) -> None:
    async with open_adopted(database_settings, "user_id VARCHAR(50), report_path VARCHAR(200)") as database:
        rows = [(None, "1"), ("a", None), ("b", "2"), (None, None), ("b", None), ("c", "3"), ("d", None), ("z", None)]
        for row in rows:
            await database.execute(_INSERT, row)
        listing = Listing(database)
        pages = await _pages(listing, limit)
        assert _users(pages) == ["b", "c"]
        assert all(pages)
        assert [(entry.user_id, entry.path) for entry in await _streamed(listing)] == [("b", "2"), ("c", "3")]


@pytest.mark.parametrize("limit", [1, 2, 100])
async def test_user_ids_of_any_bytes_are_listed(mysql_settings: DatabaseSettings, limit: int) -> None:
    async with open_adopted(mysql_settings, "user_id VARBINARY(50) PRIMARY KEY, report_path VARCHAR(200)") as database:
        users = [b"ada", b"caf\xc3\xa9", b"caf\xe9", b"\x80", b"\xff\xfe", b"zoe"]
        for user in users:
            await database.execute(_INSERT, (user, "x"))
        listing = Listing(database)
        expected = [user.decode("utf-8", "surrogateescape") for user in sorted(users)]
        assert _users(await _pages(listing, limit)) == expected
        assert [entry.user_id for entry in await _streamed(listing)] == expected


# -- where the next page begins ----------------------------------------------------------------------------------------


@given(st.text(max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_cursor_is_safe_in_a_url_and_leads_back_to_its_user(user: str) -> None:
    cursor = cursor_of(user)
    assert all(character.isalnum() or character in "-_" for character in cursor)
    assert user_of(cursor) == user


@given(st.binary(max_size=40))
@settings(max_examples=100, deadline=None)
def test_a_cursor_leads_back_to_whatever_bytes_a_row_has(stored: bytes) -> None:
    user = stored.decode("utf-8", "surrogateescape")
    assert user_of(cursor_of(user)) == user


@pytest.mark.parametrize("cursor", ["=", "a", "YQ==", "Y Q", "é", "YR", "+w", "YWRh\n"])
def test_what_no_page_has_said_is_refused(cursor: str) -> None:
    with pytest.raises(BadRequest):
        user_of(cursor)


# -- over HTTP ---------------------------------------------------------------------------------------------------------


def _list(site: Site, query: str = "", fields: Fields = ()) -> Answer:
    return ask(site.server.port, "GET", f"/api/reports{query}", fields)


def _all_pages(site: Site, query: str) -> list[Any]:
    listed: list[Any] = []
    cursor: str | None = ""
    while cursor is not None:
        page = json.loads(_list(site, f"?{query}{cursor and f'&after={cursor}'}").body)
        listed += page["reports"]
        cursor = page["next"]
    return listed


def test_a_page_says_of_each_report_what_is_known_of_it(any_site: Site) -> None:
    answer = _list(any_site, "?limit=1000")
    assert (answer.status, answer.fields["content-type"]) == (200, "application/json")
    assert answer.fields["vary"].lower() == "accept"
    page = json.loads(answer.body)
    assert set(page) == {"reports", "next"}
    assert page["next"] is None
    reports = {report["user_id"]: report for report in page["reports"]}
    assert all(set(report) == set(_COLUMNS) for report in page["reports"])
    assert reports["adopted"] == dict.fromkeys(_COLUMNS) | {"user_id": "adopted", "version": 1}
    small, got = reports["small"], any_site.get("small")
    assert (small["size"], small["media_type"], small["etag"]) == (10, "text/plain", got.fields["etag"])


def test_all_ways_to_list_tell_the_same(any_site: Site) -> None:
    listed = _all_pages(any_site, "limit=1000")
    assert _all_pages(any_site, "limit=3") == listed
    lines = _list(any_site, "?format=ndjson")
    assert lines.fields["content-type"] == "application/x-ndjson"
    assert [json.loads(line) for line in lines.body.splitlines()] == listed
    table = _list(any_site, "?format=csv")
    assert table.fields["content-type"] == "text/csv; charset=utf-8; header=present"
    header, *rows = csv.reader(io.StringIO(table.body.decode(), newline=""))
    assert header == _COLUMNS
    assert rows == [["" if report[name] is None else str(report[name]) for name in _COLUMNS] for report in listed]


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", None, "application/json"),
        ("", "*/*", "application/json"),
        ("", "text/csv", "text/csv"),
        ("", "application/x-ndjson;q=0.5, text/csv;q=0.4", "application/x-ndjson"),
        ("?format=csv", "application/x-ndjson", "text/csv"),
        ("?format=json", "text/csv", "application/json"),
        ("", "text/html", "application/json"),
    ],
)
def test_the_format_is_what_is_asked_for(site: Site, query: str, accept: str | None, kind: str) -> None:
    answer = _list(site, query, {} if accept is None else {"Accept": accept})
    assert answer.fields["content-type"].partition(";")[0] == kind
    head = ask(site.server.port, "HEAD", f"/api/reports{query}", {} if accept is None else {"Accept": accept})
    assert (head.status, head.body) == (200, b"")
    assert head.fields["content-type"] == answer.fields["content-type"]
    assert head.fields.get("content-length") == answer.fields.get("content-length")


@pytest.mark.parametrize(
    "query",
    ["limit=0", "limit=1001", "limit=x", "limit=1&limit=2", "after=%3D", "after=a", "format=xml", "format=", "limit="],
)
def test_what_cannot_be_listed_is_refused(site: Site, query: str) -> None:
    answer = _list(site, f"?{query}")
    assert (answer.status, answer.problem["type"]) == (400, "urn:sluice:error:bad-request")


@pytest.mark.parametrize("path", ["/api/reports/", "/api/reports/x", "/api//reports", "/api/report"])
def test_what_is_near_the_list_is_not_the_list(site: Site, path: str) -> None:
    assert ask(site.server.port, "GET", path).status == 404


# -- many rows, from a server that shows what it does ------------------------------------------------------------------

_MANY = 100_000
_QUERY = "%ORDER BY user_id%"


@pytest.fixture(scope="module")
def many(mariadb: MariaDb, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SluiceProcess]:
    folder: Path = tmp_path_factory.mktemp("many")
    settings = mariadb.create_database()
    assert run(folder, "migrate", **environment(settings)).returncode == 0
    mariadb.query(
        "INSERT INTO user_reports (user_id, report_path, media_type, size, digest, modified_ns, version)"
        " SELECT CONCAT('user-', LPAD(seq, 6, '0')), 'x.pdf', 'application/pdf', seq, SHA2(seq, 256), 1, 1"
        f" FROM seq_1_to_{_MANY}",
        database=settings.name,
    )
    with running(folder, None, workers=1, **environment(settings)) as server:
        yield server


def test_all_of_many_rows_arrive(many: SluiceProcess) -> None:
    answer = ask(many.port, "GET", "/api/reports", {"Accept": "application/x-ndjson"})
    lines = answer.body.splitlines()
    assert len(lines) == _MANY
    assert [json.loads(lines[index])["user_id"] for index in (0, 1, -1)] == [
        "user-000001",
        "user-000002",
        "user-100000",
    ]


def test_the_database_waits_for_a_client_that_does_not_read_and_the_query_ends_with_it(
    many: SluiceProcess, mariadb: MariaDb
) -> None:
    with RawClient(many.port) as client:
        client.get("/api/reports?format=csv")
        assert client.read_head().status == 200
        wait_until(lambda: _states(mariadb) == ["Writing to net"], "the database is held back")
        client.reset()
    wait_until(lambda: _states(mariadb) == [], "the query has ended")


def test_slow_readers_leave_connections_to_the_others_and_past_half_of_them_are_refused(many: SluiceProcess) -> None:
    with ExitStack() as stack:
        clients = [stack.enter_context(RawClient(many.port)) for _ in range(10)]  # of SLUICE_DB_POOL's 20
        for client in clients:
            client.get("/api/reports?format=ndjson")
            assert client.read_head().status == 200
        refused = ask(many.port, "GET", "/api/reports?format=csv")
        assert (refused.status, refused.problem["type"]) == (503, "urn:sluice:error:overloaded")
        assert int(refused.fields["retry-after"]) >= 1
        assert ask(many.port, "GET", "/readyz").status == 200
        assert ask(many.port, "GET", "/api/reports?limit=1").status == 200
        clients[0].reset()
        wait_until(lambda: ask(many.port, "GET", "/api/reports?format=csv").status == 200, "its place is free")


def _states(mariadb: MariaDb) -> list[str]:
    sql = "SELECT state FROM information_schema.processlist WHERE info LIKE %s AND id <> CONNECTION_ID()"
    return [state for (state,) in mariadb.query(sql, (_QUERY,))]


async def test_leaving_a_stream_early_gives_its_connection_back(database: Database) -> None:
    await _fill(database, [f"user-{number}" for number in range(2000)])
    listing = Listing(database)
    async with listing.stream() as batches:
        await anext(batches)
    with trio.fail_after(20):
        for _ in range(8):  # more often than there are readers
            async with listing.stream() as batches:
                await anext(batches)
        assert len((await listing.page(10, None)).entries) == 10
