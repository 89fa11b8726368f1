"""The tables of views: what they may say, what is said of a mistake in them, and that secrets are told to nobody."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.config.aggregate import AggregateSettings, BreakerSettings, Header, SourceSettings, ViewSettings
from app.config.file import ConfigFile, read_config_file
from app.errors import StartError
from app.settings import describe, load_settings

_FULL = """
[aggregate.profile]
deadline = "2s"
single_flight = true

[aggregate.profile.sources.user]
url = "https://users.example.com/{id}"
method = "GET"
headers = {Authorization = "Bearer ${TOKEN}", X-Two = "${TOKEN}-${OTHER}", X-Plain = "a b"}
required = true
timeout = 0.5
retries = 2
hedge_after = "100ms"
breaker = {failures = 3, window = 60, reset = "5s", statuses = [429, "5xx"]}
stale_if_error = "10min"
fallback = {name = "nobody", at = 1979-05-27, tags = []}
max_bytes = "64KiB"
select = "data[0]"
allow_private = true

[aggregate.profile.sources.orders]
url = "http://orders.example.com/"

[aggregate.other.sources.s]
url = "http://a/"
"""
_SOURCE = '[aggregate.v.sources.s]\nurl = "http://a/"\n'


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sluice.toml"


def read(path: Path, content: str, **environment: str) -> ConfigFile:
    path.write_text(content)
    return read_config_file(str(path), environment)


def test_all_that_can_be_said_is_read(path: Path) -> None:
    config = read(path, _FULL, TOKEN="t", OTHER="o")
    assert config.mistakes == ()
    profile, other = config.aggregate.views
    assert (profile.name, profile.deadline, profile.single_flight) == ("profile", 2.0, True)
    user, orders = profile.sources
    assert user.url.text == "https://users.example.com/{id}"
    assert user.headers == (
        Header("authorization", "Bearer t"),
        Header("x-two", "t-o"),
        Header("x-plain", "a b"),
    )
    assert user.breaker == BreakerSettings(3, 60.0, 5.0, ("429", "5xx"))
    assert user.fallback == b'{"name":"nobody","at":"1979-05-27","tags":[]}'
    assert user.select is not None
    assert user.select.steps == ("data", 0)
    assert (user.required, user.timeout, user.retries, user.hedge_after) == (True, 0.5, 2, 0.1)
    assert (user.stale_if_error, user.max_bytes, user.allow_private) == (600.0, 65536, True)
    assert orders == SourceSettings("orders", orders.url)
    assert other == ViewSettings("other", 10.0, False, other.sources)


@pytest.mark.parametrize("content", ["", "[aggregate]\n", "[tasks]\n"])
def test_there_may_be_no_view(path: Path, content: str) -> None:
    assert read(path, content) == ConfigFile(aggregate=AggregateSettings(()))


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("aggregate = 1", "aggregate: its value is not allowed: a table, [aggregate]"),
        ("[aggregate]\nv = 1", "aggregate.v: its value is not allowed: a table, [aggregate.v]"),
        ("[aggregate.v]\n", "aggregate.v.sources: has 0; 1 to 64 are allowed"),
        (
            "[aggregate.v]\nsources = []\n",
            "aggregate.v.sources: its value is not allowed: a table, [aggregate.v.sources]",
        ),
        ('[aggregate."a b".sources.s]\nurl = "http://a"', "aggregate.a b: is no name of a view: 1 to 64 letters"),
        ('[aggregate.v.sources."a/b"]\nurl = "http://a"', "aggregate.v.sources.a/b: is no name of a source"),
        (
            f"{_SOURCE}[aggregate.v]\ndedline = 1",
            "aggregate.v.dedline: is not known; did you mean aggregate.v.deadline?",
        ),
        (f"{_SOURCE}[aggregate.v]\ndeadline = 0", "aggregate.v.deadline: 0 is not allowed: a time above 0"),
        (f"{_SOURCE}[aggregate.v]\ndeadline = true", "aggregate.v.deadline: True is not allowed: a time above 0"),
        (f"{_SOURCE}[aggregate.v]\ndeadline = nan", "aggregate.v.deadline: nan is not allowed: a time above 0"),
        (f"{_SOURCE}[aggregate.v]\ndeadline = '2y'", "aggregate.v.deadline: '2y' is not allowed: a time above 0"),
        (f"{_SOURCE}[aggregate.v]\nsingle_flight = 1", "aggregate.v.single_flight: 1 is not allowed: true or false"),
        ("[aggregate.v.sources.s]\n", "aggregate.v.sources.s.url: is needed"),
        ("[aggregate.v.sources]\ns = 3", "aggregate.v.sources.s: its value is not allowed: a table"),
        ("[aggregate.v.sources.s]\nurl = 3", "aggregate.v.sources.s.url: its value is not allowed: an address of HTTP"),
        (
            "[aggregate.v.sources.s]\nurl = 'a'",
            "aggregate.v.sources.s.url: its value is not allowed: an address of HTTP",
        ),
    ],
)
def test_a_mistake_names_the_file_and_the_key(path: Path, content: str, told: str) -> None:
    lines = read(path, content).mistakes
    assert any(line.startswith(f"{path}: {told}") for line in lines), lines
    assert all(line.startswith(f"{path}: aggregate") and "\n" not in line for line in lines)


@pytest.mark.parametrize(
    "content",
    [
        f"{_SOURCE}headers = 'Bearer hush'",
        f"{_SOURCE}headers = ['Bearer hush']",
        "[aggregate.v]\nsources = [{url = 'http://a/', headers = {a = 'hush'}}]",
        "[aggregate.v.sources.s]\nurl = 'http://user:hush@a/'",
        "[aggregate.v.sources.s]\nurl = ['http://user:hush@a/']",
        "[aggregate.v.sources.s]\nurl = 'http://user:hush/@a/'",
        "[aggregate.v.sources.s]\nurl = 'http://[hush]/'",
        "[aggregate.v.sources.s]\nurl = 'http://a/?key=hush#b'",
    ],
)
def test_a_mistake_tells_no_secret(path: Path, content: str) -> None:
    lines = read(path, content).mistakes
    assert lines
    assert not any("hush" in line for line in lines), lines


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("timout = 1", "timout: is not known; did you mean aggregate.v.sources.s.timeout?"),
        ("method = 'get'", "method: 'get' is not allowed: GET or POST or PUT or PATCH or DELETE"),
        ("method = 1", "method: 1 is not allowed: GET or"),
        ("required = 'yes'", "required: 'yes' is not allowed: true or false"),
        ("timeout = -1", "timeout: -1 is not allowed: a time above 0"),
        ("retries = 11", "retries: 11 is not allowed: a whole number from 0 to 10"),
        ("retries = true", "retries: True is not allowed: a whole number"),
        ("retries = 1.0", "retries: 1.0 is not allowed: a whole number"),
        ("hedge_after = ''", "hedge_after: '' is not allowed: a time above 0"),
        ("stale_if_error = []", "stale_if_error: [] is not allowed: a time above 0"),
        ("max_bytes = 0", "max_bytes: 0 is not allowed: a size of 1 to 67108864 bytes"),
        ("max_bytes = '1GiB'", "max_bytes: '1GiB' is not allowed: a size"),
        ("max_bytes = 1.5", "max_bytes: 1.5 is not allowed: a size"),
        ("select = 'a..b'", "select: 'a..b' is not allowed: a path into JSON"),
        ("select = 1", "select: 1 is not allowed: a path into JSON"),
        ("breaker = true", "breaker: its value is not allowed: a table"),
        (
            "breaker = {failure = 1}",
            "breaker.failure: is not known; did you mean aggregate.v.sources.s.breaker.failures?",
        ),
        ("breaker = {failures = 0}", "breaker.failures: 0 is not allowed: a whole number from 1 to 10000"),
        ("breaker = {window = 0}", "breaker.window: 0 is not allowed: a time above 0"),
        ("breaker = {statuses = []}", "breaker.statuses: [] is not allowed: a list of statuses from 400 to 599"),
        ("breaker = {statuses = [200]}", "breaker.statuses: [200] is not allowed: a list of statuses"),
        ("breaker = {statuses = '5xx'}", "breaker.statuses: '5xx' is not allowed: a list of statuses"),
        ("headers = []", "headers: its value is not allowed: a table"),
        ("headers = {Host = 'a'}", "headers.Host: is not allowed: a header field that Sluice does not send itself"),
        ("headers = {'a b' = 'a'}", "headers.a b: is not allowed: a header field"),
        ("headers = {X-Key = 'a', x-key = 'secret'}", "headers.x-key: is there already, as X-Key"),
        ("fallback = nan", "fallback: its value is not allowed: JSON has no nan and no inf"),
        ("fallback = -inf", "fallback: its value is not allowed: JSON has no nan"),
        ("fallback = {a = [1, {b = +inf}]}", "fallback: its value is not allowed: JSON has no nan"),
        ("headers = {a = 1}", "headers.a: its value is not allowed: a text"),
        ('headers = {a = "b\\nc: d"}', "headers.a: its value is not allowed: one line of Latin-1"),
        ("headers = {a = '\u20ac'}", "headers.a: its value is not allowed: one line of Latin-1"),
        ("headers = {a = 's ${NONE}'}", "headers.a: ${NONE}: there is no such variable in the environment"),
        ("headers = {a = 's ${EMPTY}'}", "headers.a: ${EMPTY}: there is no such variable in the environment"),
        ("headers = {a = 's ${TOKEN'}", "headers.a: a ${ without its }"),
        ("retries = 1\nmethod = 'POST'", "retries: is not allowed with POST: a call that is made twice"),
        ("hedge_after = 1\nmethod = 'PATCH'", "hedge_after: is not allowed with PATCH: a call that is made twice"),
    ],
)
def test_a_mistake_in_a_source_is_told_in_a_line(path: Path, line: str, told: str) -> None:
    (mistake,) = read(path, f"{_SOURCE}{line}\n", TOKEN="secret", EMPTY="").mistakes
    assert mistake.startswith(f"{path}: aggregate.v.sources.s.{told}")
    assert "\n" not in mistake
    assert "secret" not in mistake


def test_a_line_end_in_a_variable_makes_no_other_header(path: Path) -> None:
    (mistake,) = read(path, f"{_SOURCE}headers = {{a = '${{TOKEN}}'}}\n", TOKEN="x\r\nHost: secret").mistakes
    assert "secret" not in mistake


def test_all_mistakes_are_told_at_once_and_stop_the_start(path: Path) -> None:
    path.write_text(f"{_SOURCE}retries = 99\nhedge_after = 0\n[tasks]\nmodules = 1\n")
    with pytest.raises(StartError) as caught:
        load_settings({"SLUICE_CONFIG": str(path)})
    assert len(caught.value.lines) == 3


def test_secrets_are_shown_nowhere(path: Path) -> None:
    path.write_text(_FULL)
    loaded = load_settings({"SLUICE_CONFIG": str(path), "TOKEN": "hush-hush", "OTHER": "psst"})
    shown = "\n".join([*describe(loaded), repr(loaded), str(loaded.aggregate)])
    assert "users.example.com" in shown
    assert "authorization" in shown
    assert "hush" not in shown
    assert "psst" not in shown


_WORDS = st.sampled_from(
    ["[aggregate.v]", "[aggregate.v.sources.s]", "url", "=", "'http://a/{b}'", "1", "\n", "{", "}"]
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(words=st.lists(_WORDS | st.sampled_from(["headers", "breaker", "deadline", "true", "''", "[]"]), max_size=20))
def test_whatever_is_in_it_is_told_and_not_raised(path: Path, words: list[str]) -> None:
    config = read(path, " ".join(words))
    assert isinstance(config, ConfigFile)
