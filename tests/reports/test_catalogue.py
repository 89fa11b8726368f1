"""The catalogue of reports, over each kind of database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio

from app.errors import DatabaseUnavailable, QueryFailed
from app.reports.catalogue import Catalogue, Entry, Replaced, TooEarly, open_catalogue
from app.settings import DatabaseSettings
from app.storage.blobs import StoredBlob
from app.storage.database import Database
from tests.conftest import open_migrated

_SECOND_NS = 10**9
_DAY_NS = 1_700_000_000 * _SECOND_NS
_BLOB = StoredBlob("a.pdf", 5, "0" * 64, _DAY_NS + 5)


@pytest.fixture
async def catalogue(database: Database) -> AsyncIterator[Catalogue]:
    async with open_catalogue(database) as opened:
        yield opened


def _blob(name: str, second: int) -> StoredBlob:
    return StoredBlob(f"{name}.pdf", 7, "1" * 64, _DAY_NS + second * _SECOND_NS)


async def test_an_unknown_user_has_no_entry(catalogue: Catalogue) -> None:
    assert await catalogue.find("ada") is None


async def test_what_was_stored_is_found_as_it_was_stored(catalogue: Catalogue) -> None:
    replaced = await catalogue.replace("ada", _BLOB, "application/pdf")
    entry = Entry("ada", "a.pdf", "application/pdf", 5, "0" * 64, _DAY_NS + 5, 1)
    assert replaced == Replaced(entry, None)
    assert await catalogue.find("ada") == entry


async def test_a_new_report_counts_on_and_tells_the_one_before_it(catalogue: Catalogue) -> None:
    first = await catalogue.replace("ada", _blob("one", 1), "application/pdf")
    second = await catalogue.replace("ada", _blob("two", 2), "text/plain")
    assert isinstance(first, Replaced)
    assert isinstance(second, Replaced)
    assert second.previous == first.entry
    assert second.entry == Entry("ada", "two.pdf", "text/plain", 7, "1" * 64, _DAY_NS + 2 * _SECOND_NS, 2)
    assert await catalogue.find("ada") == second.entry


@pytest.mark.parametrize("nanoseconds", [-_SECOND_NS, 0, 1, _SECOND_NS - 6])
async def test_a_report_of_the_same_second_is_too_early(catalogue: Catalogue, nanoseconds: int) -> None:
    await catalogue.replace("ada", _BLOB, "application/pdf")
    early = replace(_BLOB, path="b.pdf", modified_ns=_BLOB.modified_ns + nanoseconds)
    assert await catalogue.replace("ada", early, "application/pdf") == TooEarly(_DAY_NS + _SECOND_NS)
    entry = await catalogue.find("ada")
    assert entry is not None
    assert (entry.path, entry.version) == ("a.pdf", 1)
    late = replace(early, modified_ns=_DAY_NS + _SECOND_NS)
    assert isinstance(await catalogue.replace("ada", late, "application/pdf"), Replaced)


async def test_users_whose_names_differ_in_case_only_are_two_users(catalogue: Catalogue) -> None:
    for number, user in enumerate(("bob", "Bob", "BOB")):
        await catalogue.replace(user, _blob(user, number), "application/pdf")
    for user in ("bob", "Bob", "BOB"):
        entry = await catalogue.find(user)
        assert entry is not None
        assert (entry.user_id, entry.path, entry.version) == (user, f"{user}.pdf", 1)


@pytest.mark.parametrize("user", ["a" * 128, "a.b_c@d-e", "-", "007", "1e5", "..."])
async def test_every_allowed_user_id_is_kept_as_it_is(catalogue: Catalogue, user: str) -> None:
    await catalogue.replace(user, _BLOB, "application/pdf")
    entry = await catalogue.find(user)
    assert entry is not None
    assert entry.user_id == user


@pytest.mark.parametrize("known", [False, True], ids=["new user", "known user"])
async def test_reports_that_are_stored_at_once_each_become_a_version(catalogue: Catalogue, known: bool) -> None:
    """As a storing request does it: dated anew what came too early, tried again what was refused for now."""
    if known:
        await catalogue.replace("ada", _blob("first", 0), "application/pdf")
    entries: list[Entry] = []

    async def store(number: int) -> None:
        blob = _blob(str(number), 1)
        for _ in range(200):
            try:
                match await catalogue.replace("ada", blob, "application/pdf"):
                    case TooEarly(not_before_ns):
                        blob = replace(blob, modified_ns=not_before_ns)
                    case Replaced(entry):
                        return entries.append(entry)
            except DatabaseUnavailable:  # two that both want to be the first of a user
                await trio.lowlevel.checkpoint()
        raise AssertionError("never stored")

    async with trio.open_nursery() as nursery:
        for number in range(12):
            nursery.start_soon(store, number)
    assert sorted(entry.version for entry in entries) == list(range(1 + known, 13 + known))
    assert len({(entry.modified_ns or 0) // _SECOND_NS for entry in entries}) == 12
    assert await catalogue.find("ada") == max(entries, key=lambda entry: entry.version)


async def test_reports_of_many_users_at_once_do_not_mix(catalogue: Catalogue, database: Database) -> None:
    async def store(user: str) -> None:
        for _ in range(50):
            try:
                await catalogue.replace(user, _blob(user, 0), "application/pdf")
            except DatabaseUnavailable:  # neighbours in the index may lock each other out for a moment
                continue
            break
        entry = await catalogue.find(user)
        assert entry is not None
        assert (entry.path, entry.version) == (f"{user}.pdf", 1)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(store, f"user{number}")
    assert await database.fetch("SELECT count(*) FROM user_reports") == [(40,)]
    assert catalogue.lookups().keys == 40


async def test_a_cancelled_replacement_changes_nothing_or_all(catalogue: Catalogue, database: Database) -> None:
    await catalogue.replace("ada", _blob("old", 0), "application/pdf")
    async with database.transaction() as transaction:
        await transaction.execute("UPDATE user_reports SET size = 8 WHERE user_id = 'ada'")
        with trio.move_on_after(0.1) as scope:
            await catalogue.replace("ada", _blob("new", 1), "application/pdf")
        assert scope.cancelled_caught
    entry = await catalogue.find("ada")
    assert entry is not None
    assert (entry.path, entry.size, entry.version) == ("old.pdf", 8, 1)
    assert isinstance(await catalogue.replace("ada", _blob("new", 1), "application/pdf"), Replaced)


# -- an adopted table that does not tell case apart --------------------------------------------------------------------


@pytest.mark.parametrize("key", ["PRIMARY KEY", "NOT NULL"])
async def test_in_a_table_without_regard_to_case_no_report_replaces_that_of_another(
    mysql_settings: DatabaseSettings, key: str
) -> None:
    async with open_migrated(mysql_settings) as database:
        await database.execute("DROP TABLE user_reports")
        await database.execute("DROP TABLE sluice_schema")
        columns = f"user_id VARCHAR(50) {key}, report_path VARCHAR(200)"
        await database.execute(f"CREATE TABLE user_reports ({columns}) COLLATE utf8mb4_general_ci")
        await database.execute("INSERT INTO user_reports VALUES ('Bob', 'big.pdf')")
    async with open_migrated(mysql_settings) as database, open_catalogue(database) as catalogue:
        if key == "PRIMARY KEY":
            with pytest.raises(QueryFailed):
                await catalogue.replace("bob", _blob("small", 0), "application/pdf")
            assert await catalogue.find("bob") is None
        else:
            await catalogue.replace("bob", _blob("small", 0), "application/pdf")
            await catalogue.replace("Bob", _blob("big", 1), "application/pdf")
            await catalogue.replace("bob", _blob("smaller", 2), "application/pdf")
            entry = await catalogue.find("bob")
            assert entry is not None
            assert (entry.path, entry.version) == ("smaller.pdf", 2)
        entry = await catalogue.find("Bob")
        assert entry is not None
        assert entry.path == "big.pdf"
