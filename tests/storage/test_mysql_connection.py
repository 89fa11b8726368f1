"""Getting in: TLS, passwords, refusals and servers that are none."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import trio
import trustme

import app.storage.mysql
import app.storage.mysql_connection
from app.errors import DatabaseUnavailable, StartError
from app.settings import DatabaseSettings
from app.storage.migrate import migrate
from app.storage.mysql import open_mysql
from tests.mariadb import MariaDb, free_port
from tests.storage.modern_mysql import modern_mysql, serving


async def _refusal(settings: DatabaseSettings) -> str:
    with pytest.raises(StartError) as caught:
        async with open_mysql(settings):
            pass
    (line,) = caught.value.lines
    assert "\n" not in line
    assert not settings.password or settings.password not in line
    return line


def _open_files() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_an_authority_turns_tls_on(mysql_settings: DatabaseSettings, mariadb: MariaDb) -> None:
    async with open_mysql(mysql_settings) as mysql:
        assert await mysql.fetch("SHOW STATUS LIKE 'Ssl_cipher'") == [("Ssl_cipher", "")]
    async with open_mysql(replace(mysql_settings, tls_ca=mariadb.ca)) as mysql:
        ((_, cipher),) = await mysql.fetch("SHOW STATUS LIKE 'Ssl_cipher'")
        assert cipher


async def test_connections_with_tls_are_used_again_and_cancelled_like_others(
    mysql_settings: DatabaseSettings, mariadb: MariaDb
) -> None:
    async with open_mysql(replace(mysql_settings, tls_ca=mariadb.ca)) as mysql:
        for _ in range(5):
            await mysql.ping()
        assert mysql.statistics().opened == 1
        with trio.move_on_after(0.1):
            await mysql.fetch("SELECT SLEEP(600)")
        with trio.fail_after(30):
            while mariadb.processes("SELECT SLEEP(600)%"):  # noqa: ASYNC110 - what changes it has no event for us
                await trio.sleep(0.01)
        assert mysql.statistics().killed == 1
        await mysql.ping()


async def test_a_certificate_of_another_authority_is_refused_with_the_reason(
    mysql_settings: DatabaseSettings, tmp_path: Path
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    assert "certificate" in (await _refusal(replace(mysql_settings, tls_ca=tmp_path / "other.pem"))).lower()


async def test_a_certificate_for_another_host_is_refused(mysql_settings: DatabaseSettings, mariadb: MariaDb) -> None:
    # The same address, written so that the certificate does not name it.
    assert "certificate" in (await _refusal(replace(mysql_settings, host="127.1", tls_ca=mariadb.ca))).lower()


async def test_an_authority_that_is_none_is_refused_by_its_name(
    mysql_settings: DatabaseSettings, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text("no certificate")
    assert "DB_TLS_CA" in await _refusal(replace(mysql_settings, tls_ca=tmp_path / "ca.pem"))


async def test_a_server_without_tls_is_refused_where_tls_is_asked_for(mariadb: MariaDb) -> None:
    async with serving(modern_mysql("secret", [])) as settings:
        assert "TLS" in await _refusal(replace(settings, tls_ca=mariadb.ca))


# -- letting us in -----------------------------------------------------------------------------------------------------


async def test_a_wrong_password_is_told_without_it(mysql_settings: DatabaseSettings) -> None:
    line = await _refusal(replace(mysql_settings, password="a-wrong-secret"))
    assert "Access denied" in line
    assert mysql_settings.user in line


async def test_an_unknown_database_is_told_by_its_name(mysql_settings: DatabaseSettings) -> None:
    assert "nowhere" in await _refusal(replace(mysql_settings, name="nowhere"))


@pytest.mark.parametrize("password", ["naïve", "пароль-€", "p%40:@/?#[]"])
async def test_any_password_works_for_requests_and_migrations(
    mysql_settings: DatabaseSettings, mariadb: MariaDb, password: str
) -> None:
    name = mysql_settings.user
    with mariadb.connect() as root, root.cursor() as cursor:
        root.set_character_set("utf8mb4")
        cursor.execute(f"ALTER USER '{name}'@'%%' IDENTIFIED BY %s", (password,))
    settings = replace(mysql_settings, password=password)
    async with open_mysql(settings) as mysql:
        await mysql.ping()
    migrate(settings)


async def test_an_account_that_is_full_is_a_matter_of_time(mysql_settings: DatabaseSettings, mariadb: MariaDb) -> None:
    mariadb.query(f"ALTER USER '{mysql_settings.user}'@'%' WITH MAX_USER_CONNECTIONS 1")
    async with open_mysql(mysql_settings) as mysql, mysql.transaction():
        with pytest.raises(DatabaseUnavailable) as caught:
            await mysql.ping()
        assert caught.value.retry_after


async def test_an_account_that_is_locked_meanwhile_makes_the_database_unavailable(
    mysql_settings: DatabaseSettings, mariadb: MariaDb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.storage.mysql, "_AGE_SECONDS", 0.0)
    async with open_mysql(mysql_settings) as mysql:
        mariadb.query(f"ALTER USER '{mysql_settings.user}'@'%' ACCOUNT LOCK")
        with pytest.raises(DatabaseUnavailable) as caught:
            await mysql.ping()
        assert caught.value.retry_after


async def test_a_refused_start_leaves_no_socket_open(mysql_settings: DatabaseSettings, tmp_path: Path) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    before = _open_files()
    for _ in range(5):
        await _refusal(replace(mysql_settings, password="a-wrong-secret"))
        await _refusal(replace(mysql_settings, tls_ca=tmp_path / "other.pem"))
    assert _open_files() == before


# -- servers that are none ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "greeting",
    [b"", b"SSH-2.0-OpenSSH_9.2\r\n", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x05\0\0\0\x0a5.7", b"\1\0\0\0\x0a"],
    ids=["nothing", "ssh", "http", "cut short", "no version"],
)
async def test_a_server_that_is_no_mysql_is_told_in_one_line(greeting: bytes) -> None:
    async def speak(stream: trio.SocketStream) -> None:
        await stream.send_all(greeting)

    async with serving(speak) as settings:
        await _refusal(settings)


async def test_a_server_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    async def speak(_: trio.SocketStream) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(app.storage.mysql_connection, "CONNECT_SECONDS", 0.1)
    async with serving(speak) as settings:
        with trio.fail_after(30):
            assert "0.1 s" in await _refusal(settings)


async def test_a_port_where_nobody_listens_is_told_in_one_line(mysql_settings: DatabaseSettings) -> None:
    await _refusal(replace(mysql_settings, port=free_port()))


@pytest.mark.parametrize("host", ["a..b", "x" * 64 + ".example", "sp ace"])
async def test_a_host_that_is_no_name_is_told_in_one_line(mysql_settings: DatabaseSettings, host: str) -> None:
    await _refusal(replace(mysql_settings, host=host))


# -- MySQL 8 and later -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cached", [True, False], ids=["password in its cache", "password not in its cache"])
async def test_the_default_authentication_of_mysql_8_lets_us_in(cached: bool) -> None:
    heard: list[bytes] = []
    async with serving(modern_mysql("secret", heard, cached=cached)) as settings, open_mysql(settings) as mysql:
        assert await mysql.fetch("SELECT 1") == [(1,)]
    assert heard == [b"SELECT 1"] * 2


async def test_the_default_authentication_of_mysql_8_refuses_a_wrong_password() -> None:
    async with serving(modern_mysql("another", [])) as settings:
        assert "Access denied" in await _refusal(settings)
