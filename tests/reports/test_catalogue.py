"""The catalogue of reports, over each kind of database."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import trio

from app.errors import BadUserId, DatabaseUnavailable, QueryFailed
from app.reports.catalogue import Catalogue, Changed, Expected, Removed, Replaced, TooEarly, open_catalogue
from app.reports.entries import Entry
from app.settings import DatabaseSettings
from app.storage.blobs import StoredBlob
from app.storage.database import Database
from tests.conftest import open_adopted, open_migrated
from tests.mariadb import MariaDb

_SECOND_NS = 10**9
_KEEP = 3
_DAY_NS = 1_700_000_000 * _SECOND_NS
_BLOB = StoredBlob("a.pdf", 5, "0" * 64, _DAY_NS + 5)


@pytest.fixture
async def catalogue(database: Database) -> AsyncIterator[Catalogue]:
    async with open_catalogue(database, _KEEP) as opened:
        yield opened


def _blob(name: str, second: int) -> StoredBlob:
    return StoredBlob(f"{name}.pdf", 7, "1" * 64, _DAY_NS + second * _SECOND_NS)


async def test_an_unknown_user_has_no_entry(catalogue: Catalogue) -> None:
    assert await catalogue.find("ada") is None


async def test_what_was_stored_is_found_as_it_was_stored(catalogue: Catalogue) -> None:
    replaced = await catalogue.replace("ada", _BLOB, "application/pdf")
    entry = Entry("ada", "a.pdf", "application/pdf", 5, "0" * 64, _DAY_NS + 5, 1)
    assert replaced == Replaced(entry, True, frozenset())
    assert await catalogue.find("ada") == entry


async def test_a_new_report_counts_on(catalogue: Catalogue) -> None:
    first = await catalogue.replace("ada", _blob("one", 1), "application/pdf")
    second = await catalogue.replace("ada", _blob("two", 2), "text/plain")
    assert isinstance(first, Replaced)
    assert isinstance(second, Replaced)
    assert (first.created, second.created) == (True, False)
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
                    case Changed():  # another one was quicker
                        pass
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
        assert isinstance(await catalogue.replace(user, _blob(user, 0), "application/pdf"), Replaced)
        entry = await catalogue.find(user)
        assert entry is not None
        assert (entry.path, entry.version) == (f"{user}.pdf", 1)

    async with trio.open_nursery() as nursery:
        for number in range(40):
            nursery.start_soon(store, f"user{number}")
    assert await database.fetch("SELECT count(*) FROM user_reports") == [(40,)]
    assert catalogue.lookups().keys == 80  # one before it is stored, one after


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
    async with open_migrated(mysql_settings) as database, open_catalogue(database, _KEEP) as catalogue:
        if key == "PRIMARY KEY":
            with pytest.raises(BadUserId):
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


@pytest.mark.parametrize("key", ["PRIMARY KEY", ""])
async def test_rows_that_name_no_user_or_no_file_are_no_entries(database_settings: DatabaseSettings, key: str) -> None:
    columns = f"user_id VARCHAR(50) {key}, report_path VARCHAR(200)"
    rows: list[tuple[str | None, str | None]] = [("ada", None), ("bob", "b.pdf"), ("None", None)]
    rows += [] if key else [(None, "n.pdf"), (None, None), ("bob", None)]
    async with open_adopted(database_settings, columns) as database, open_catalogue(database, _KEEP) as catalogue:
        for row in rows:
            await database.execute("INSERT INTO user_reports (user_id, report_path) VALUES (?, ?)", row)
        for user in ("ada", "None"):
            assert await catalogue.find(user) is None
            assert await catalogue.versions(user) == []
            assert await catalogue.remove(user) is None
        assert [entry.path for entry in await catalogue.versions("bob")] == ["b.pdf"]
        replaced = await catalogue.replace("ada", _blob("new", 1), "application/pdf")
        assert isinstance(replaced, Replaced)
        assert (replaced.created, replaced.entry.version) == (True, 1)
        assert await catalogue.find("ada") == replaced.entry
        assert isinstance(await catalogue.replace("ada", _blob("newer", 2), "application/pdf"), Replaced)


@pytest.mark.parametrize(
    ("kind", "kept", "refused", "refused_by_mysql"),
    [
        ("INT PRIMARY KEY", ["7", "-1"], ["07", "7.0", "1e1"], ["abc", "99999999999"]),
        ("INTEGER PRIMARY KEY", ["7", "8"], ["07", "abc", "7a"], []),
        ("INT NOT NULL", ["7"], ["08"], ["a7"]),
        ("VARCHAR(5) PRIMARY KEY", ["short"], [], ["longer"]),
    ],
)
async def test_a_user_whom_an_adopted_column_cannot_keep_is_refused_as_such(
    database_settings: DatabaseSettings, kind: str, kept: list[str], refused: list[str], refused_by_mysql: list[str]
) -> None:
    async with (
        open_adopted(database_settings, f"user_id {kind}, report_path VARCHAR(200)") as database,
        open_catalogue(database, _KEEP) as catalogue,
    ):
        # SQLite keeps in most columns also what is not of their type.
        kept, refused = (
            (kept, refused + refused_by_mysql) if database.dialect == "mysql" else (kept + refused_by_mysql, refused)
        )
        for user in kept:
            assert isinstance(await catalogue.replace(user, _blob(user, 0), "application/pdf"), Replaced)
        for user in refused:
            with pytest.raises(BadUserId, match="the database cannot keep a user of that name") as told:
                await catalogue.replace(user, _blob(user, 0), "application/pdf")
            assert repr(user) in (told.value.internal or "")
            assert await catalogue.find(user) is None
        rows = await database.fetch("SELECT user_id FROM user_reports")
        assert {str(user) for (user,) in rows} == set(kept)


async def test_what_is_refused_for_another_column_is_not_the_users_fault(mysql_settings: DatabaseSettings) -> None:
    async with (
        open_adopted(mysql_settings, "user_id VARCHAR(50) PRIMARY KEY, report_path VARCHAR(5)") as database,
        open_catalogue(database, _KEEP) as catalogue,
    ):
        with pytest.raises(QueryFailed):
            await catalogue.replace("user_id", _blob("user_id", 0), "application/pdf")


# -- versions ----------------------------------------------------------------------------------------------------------


def _stored(number: int) -> StoredBlob:
    """A file as we name it."""
    name = f"{number:032x}.pdf"
    return StoredBlob(f"{name[:2]}/{name}", 7, f"{number:064x}", _DAY_NS + number * _SECOND_NS)


async def _replace(catalogue: Catalogue, number: int, user: str = "ada") -> Replaced:
    replaced = await catalogue.replace(user, _stored(number), "application/pdf")
    assert isinstance(replaced, Replaced)
    return replaced


async def _adopt(database: Database, path: str, user: str = "ada") -> None:
    await database.execute("INSERT INTO user_reports (user_id, report_path) VALUES (?, ?)", (user, path))


async def test_the_newest_versions_are_kept_and_the_files_of_the_others_are_named_no_more(catalogue: Catalogue) -> None:
    stored = [await _replace(catalogue, number) for number in range(1, 6)]
    assert [replaced.unnamed for replaced in stored[:_KEEP]] == [frozenset()] * _KEEP
    assert [replaced.unnamed for replaced in stored[_KEEP:]] == [{_stored(1).path}, {_stored(2).path}]
    assert await catalogue.versions("ada") == [replaced.entry for replaced in reversed(stored[-_KEEP:])]
    for replaced in stored[-_KEEP:]:
        assert await catalogue.find_version("ada", replaced.entry.version) == replaced.entry
    for version in (1, 2, 6, 2**63 - 1):
        assert await catalogue.find_version("ada", version) is None


async def test_users_have_versions_of_their_own(catalogue: Catalogue) -> None:
    for number, user in enumerate(("bob", "Bob", "bob", "bob."), 1):
        await _replace(catalogue, number, user)
    assert [entry.version for entry in await catalogue.versions("bob")] == [2, 1]
    assert [entry.path for entry in await catalogue.versions("Bob")] == [_stored(2).path]
    assert await catalogue.versions("BOB") == []
    assert await catalogue.find_version("BOB", 1) is None


async def test_when_fewer_are_to_be_kept_the_others_go_with_the_next_one(database: Database) -> None:
    async with open_catalogue(database, 5) as catalogue:
        for number in range(1, 5):
            await _replace(catalogue, number)
    async with open_catalogue(database, 1) as catalogue:
        assert (await _replace(catalogue, 5)).unnamed == {_stored(number).path for number in range(1, 5)}
        assert [entry.version for entry in await catalogue.versions("ada")] == [5]


async def test_an_adopted_report_becomes_a_version_and_its_file_stays_its_owners(
    catalogue: Catalogue, database: Database
) -> None:
    await _adopt(database, "old.pdf")
    adopted = Entry("ada", "old.pdf", None, None, None, None, 1)
    assert await catalogue.versions("ada") == [adopted]
    assert (await _replace(catalogue, 1)).created is False
    assert (await catalogue.versions("ada"))[1:] == [adopted]
    assert await catalogue.find_version("ada", 1) == adopted
    for number in range(2, 2 + _KEEP):
        assert "old.pdf" not in (await _replace(catalogue, number)).unnamed
    assert adopted not in await catalogue.versions("ada")


async def test_a_report_that_was_stored_before_there_were_versions_becomes_one(
    catalogue: Catalogue, database: Database
) -> None:
    first = (await _replace(catalogue, 1)).entry
    await database.execute("DELETE FROM report_versions")
    assert await catalogue.versions("ada") == [first]
    second = (await _replace(catalogue, 2)).entry
    assert await catalogue.versions("ada") == [second, first]


async def test_a_row_that_its_owner_has_written_anew_counts_on_from_the_versions(
    catalogue: Catalogue, database: Database
) -> None:
    for number in (1, 2):
        await _replace(catalogue, number)
    await database.execute("DELETE FROM user_reports")
    assert await catalogue.versions("ada") == []
    await _adopt(database, "again.pdf")
    assert [(entry.version, entry.path) for entry in await catalogue.versions("ada")] == [
        (1, "again.pdf"),
        (2, _stored(2).path),
    ]
    assert (await _replace(catalogue, 3)).entry.version == 3


async def test_a_report_whose_commit_was_answered_by_nobody_is_found_when_it_is_tried_again(
    catalogue: Catalogue,
) -> None:
    for number in (1, 2):
        first = await _replace(catalogue, number)
        again = await catalogue.replace("ada", _stored(number), "application/pdf", expected=Expected(None))
        assert again == Replaced(first.entry, first.created, frozenset())
    # Also where another one has been quicker since.
    again = await catalogue.replace("ada", _stored(1), "application/pdf")
    assert isinstance(again, Replaced)
    assert (again.entry.version, again.created) == (1, True)
    assert [entry.version for entry in await catalogue.versions("ada")] == [2, 1]


# -- changes that are meant for one entry ------------------------------------------------------------------------------


async def test_a_change_is_made_only_where_the_entry_is_the_one_that_it_is_meant_for(catalogue: Catalogue) -> None:
    nothing = Expected(None)
    first = await catalogue.replace("ada", _stored(1), "a/b", expected=nothing)
    assert isinstance(first, Replaced)
    assert await catalogue.replace("ada", _stored(2), "a/b", expected=nothing) == Changed()
    second = await catalogue.replace("ada", _stored(2), "a/b", expected=Expected(first.entry))
    assert isinstance(second, Replaced)
    assert await catalogue.replace("ada", _stored(3), "a/b", expected=Expected(first.entry)) == Changed()
    assert await catalogue.remove("ada", expected=Expected(first.entry)) == Changed()
    assert await catalogue.find("ada") == second.entry
    assert isinstance(await catalogue.remove("ada", expected=Expected(second.entry)), Removed)


async def test_the_commit_is_announced_just_before_it_and_only_then(catalogue: Catalogue) -> None:
    announced: list[int] = []
    await catalogue.replace("ada", _stored(2), "a/b", committing=lambda: announced.append(1))
    assert announced == [1]
    await catalogue.replace("ada", _stored(1), "a/b", committing=lambda: announced.append(2))  # too early
    await catalogue.replace("ada", _stored(3), "a/b", expected=Expected(None), committing=lambda: announced.append(3))
    assert announced == [1]


async def test_what_is_removed_is_gone_with_all_versions(catalogue: Catalogue, database: Database) -> None:
    await _adopt(database, "old.pdf")
    for number in (1, 2):
        await _replace(catalogue, number)
    await _replace(catalogue, 3, "Ada")
    assert await catalogue.remove("ada") == Removed(frozenset((_stored(1).path, _stored(2).path)))
    assert await catalogue.remove("ada") is None
    assert await catalogue.find("ada") is None
    assert await catalogue.versions("ada") == []
    assert await catalogue.find_version("ada", 2) is None
    assert [entry.path for entry in await catalogue.versions("Ada")] == [_stored(3).path]
    assert (await _replace(catalogue, 4)).created


# -- which files are named ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("settled", [False, True])
async def test_each_file_of_a_row_or_a_version_is_named(
    catalogue: Catalogue, database: Database, settled: bool
) -> None:
    for number in (1, 2):
        await _replace(catalogue, number)
    await database.execute("DELETE FROM report_versions WHERE version = 2")
    await _adopt(database, "/srv/reports/old.pdf", "bob")
    asked = [_stored(number).path for number in (1, 2, 3)]
    assert await catalogue.named([*asked, "/srv/reports/old.pdf"], settled) == {*asked[:2], "/srv/reports/old.pdf"}


async def test_a_file_that_a_running_transaction_is_about_to_name_is_named_once_it_has(
    mysql_settings: DatabaseSettings, mariadb: MariaDb
) -> None:
    """As of a process that was killed while the server was committing for it."""
    async with open_migrated(mysql_settings) as database, open_catalogue(database, _KEEP) as catalogue:
        found: list[set[str]] = []

        async def ask() -> None:
            found.append(await catalogue.named([_stored(1).path], True))

        async with trio.open_nursery() as nursery, database.transaction() as transaction:
            row = "INSERT INTO user_reports (user_id, report_path) VALUES ('ada', ?)"
            await transaction.execute(row, (_stored(1).path,))
            assert await catalogue.named([_stored(1).path], False) == set()
            nursery.start_soon(ask)
            while not mariadb.processes("%LOCK IN SHARE MODE%"):  # noqa: ASYNC110 - the server has no event for us
                await trio.sleep(0.005)
            assert found == []
        assert found == [{_stored(1).path}]
