"""``POST /api/process`` and ``GET /api/tasks`` as their clients see them, on a real server."""

from __future__ import annotations

import hashlib
import json
import math
from typing import Any

import pytest
import trio

from tests.compute.conftest import JSON, Site, request, result, told
from tests.exchange import Answer
from tests.faults.traffic import RawClient
from tests.wire.http2_client import Http2
from tests.wire.serving import Client

MIB = 1024**2
CSV = b"name,value\na,1\nb,2\nc,x\nd,\ne,6\n"


# -- the original's form -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"{}", JSON),
        (b'{"anything": [1, {"else": null}], "args": 3}', JSON),
        (b"[]", JSON),
        (b' [1, "task"]', JSON),
        (b"", JSON),
        (b"", ()),
    ],
    ids=lambda value: value.decode() if isinstance(value, bytes) else "",
)
def test_a_body_without_a_task_is_the_originals_computation(site: Site, body: bytes, fields: Any) -> None:
    found = result(site.post(body, fields))
    assert math.isclose(found, 21081849486.44, rel_tol=1e-9)


def test_no_body_at_all_is_too(site: Site) -> None:
    with RawClient(site.server.port) as client:
        client.send(b"POST /api/process HTTP/1.1\r\nHost: sluice\r\n\r\n")
        head, body = client.answer()
    assert (head.status, set(body)) == (200, {"result"})


# -- tasks -------------------------------------------------------------------------------------------------------------


def test_a_task_gets_its_arguments(site: Site) -> None:
    assert result(site.run("sum-sqrt", n=3)) == 1 + math.sqrt(2)
    assert result(site.run("plugin.double", number=21)) == 42
    assert result(site.run("describe", numbers=[1, 2, 3], percentiles=[50], bins=1))["percentiles"] == {"50": 2}
    value = {"é": [1, None, {"deep": "x" * 5000}]}
    assert result(site.run("echo", value=value)) == value


def test_tasks_read_stored_reports(site: Site) -> None:
    assert site.ask("/api/report/csv", "PUT", [("Content-Type", "text/csv")], CSV).status in {200, 201}
    digest = {"sha256": hashlib.sha256(CSV).hexdigest(), "size": len(CSV)}
    assert result(site.run("sha256", report="csv")) == digest
    for column in ("value", 2):
        found = result(site.run("describe", report="csv", column=column, bins=2))
        assert (found["count"], found["mean"], found["missing"], found["invalid"]) == (3, 3, 1, 1)


@pytest.mark.parametrize(
    ("task", "arguments", "wanted"),
    [
        ("sha256", {"report": "nobody"}, (404, "report-not-found")),
        ("sha256", {"report": "../x"}, (400, "bad-user-id")),
        ("sha256", {"report": ""}, (422, "invalid-arguments")),
        ("sha256", {"report": 3}, (422, "invalid-arguments")),
        ("sha256", {}, (422, "invalid-arguments")),
        ("describe", {"report": "csv2"}, (422, "invalid-arguments")),
        ("describe", {"report": "csv2", "column": "nothing"}, (422, "invalid-arguments")),
    ],
)
def test_reports_that_cannot_be_read(site: Site, task: str, arguments: dict[str, Any], wanted: tuple[int, str]) -> None:
    site.ask("/api/report/csv2", "PUT", [("Content-Type", "text/csv")], CSV)
    answer = site.run(task, **arguments)
    assert told(answer) == wanted
    assert "/proc/" not in answer.body.decode()


def test_the_tasks_are_listed_with_schemas(site: Site) -> None:
    answer = site.ask("/api/tasks")
    assert answer.fields["content-type"] == "application/json"
    tasks = {task["name"]: task for task in json.loads(answer.body)["tasks"]}
    assert {"sum-sqrt", "describe", "sha256", "plugin.double", "echo"} <= set(tasks)
    assert [set(task) for task in tasks.values()] == [{"name", "meaning", "retry", "arguments"}] * len(tasks)
    assert tasks["sum-sqrt"]["arguments"]["properties"]["n"]["default"] == 10_000_000
    assert tasks["sha256"]["arguments"]["required"] == ["report"]
    assert tasks["sha256"]["retry"] is True
    for task in tasks.values():
        assert task["arguments"]["type"] == "object"
        _is_schema(task["arguments"], task["arguments"])


_TYPES = {"null", "boolean", "object", "array", "number", "string", "integer"}
_INSIDE = ("items", "additionalProperties", "not")
_INSIDE_LISTS = ("anyOf", "oneOf", "allOf", "prefixItems")
_INSIDE_MEMBERS = ("properties", "$defs")


def _is_schema(schema: Any, root: Any) -> None:
    """Of JSON Schema 2020-12, as far as it is used: each keyword's value is one that it may have."""
    if isinstance(schema, bool):
        return
    kinds = schema.get("type", [])
    assert {kinds} if isinstance(kinds, str) else set(kinds) <= _TYPES
    assert isinstance(schema.get("required", []), list)
    if "$ref" in schema:
        assert schema["$ref"].removeprefix("#/$defs/") in root["$defs"]
    inside = [schema[name] for name in _INSIDE if name in schema]
    inside += [each for name in _INSIDE_LISTS for each in schema.get(name, [])]
    inside += [each for name in _INSIDE_MEMBERS for each in schema.get(name, {}).values()]
    for each in inside:
        _is_schema(each, root)


# -- what is wrong -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    [
        None,
        "",
        "text/plain",
        "application/json-seq",
        "application/x-www-form-urlencoded",
        "text/json/application/json",
        "xapplication/json",
        "+json",
        "application/json, text/plain",
        "application/json; charset=latin-1",
        "application/json; charset=utf-16",
    ],
)
def test_what_is_not_said_to_be_json_is_refused(site: Site, said: str | None) -> None:
    answer = site.post(request("echo", value=1), [] if said is None else [("Content-Type", said)])
    assert told(answer) == (415, "unsupported-media-type")
    assert answer.fields["accept"] == "application/json"


@pytest.mark.parametrize(
    "said",
    [
        "application/json; charset=utf-8",
        'APPLICATION/JSON;Charset="UTF-8"',
        "application/json;charset=utf8",
        "application/json; x=y; charset=us-ascii",
        "application/vnd.sluice.v1+json",
    ],
)
def test_json_may_be_called_several_things(site: Site, said: str) -> None:
    assert result(site.post(request("echo", value=1), [("Content-Type", said)])) == 1


@pytest.mark.parametrize("said", ["gzip", "br", "identity, gzip", "x"])
def test_a_body_comes_as_it_is(site: Site, said: str) -> None:
    answer = site.post(request("echo", value=1), [*JSON, ("Content-Encoding", said)])
    assert told(answer) == (415, "unsupported-content-encoding")
    assert answer.fields["accept-encoding"] == "identity"
    assert result(site.post(request("echo", value=1), [*JSON, ("Content-Encoding", "Identity")])) == 1


@pytest.mark.parametrize(
    ("body", "offset"),
    [
        (b"{", 1),
        (b"x", 0),
        (b'{"a":1,}', 7),
        (b'{"task":"echo","args":{"value":x}}', 31),
        (b'{"task":"echo","args":{"value":[1,]}}', 34),
        (b'{"task":"echo"} {}', 16),
        (b'{"task":"echo","args":{"value":01}}', 32),
        (b'{"task":"echo","args":{"value":"\xff"}}', 32),
        (b'{"task":"\xc3("}', 9),
        (b"[1,\n 2,\n x]", 9),
        (b"\xef\xbb\xbf{}", 0),
    ],
)
@pytest.mark.parametrize("before", [0, MIB + 7], ids=["whole", "in a worker"])
def test_malformed_json_is_told_with_its_place(site: Site, body: bytes, offset: int, before: int) -> None:
    answer = site.post(b" " * before + body)
    assert told(answer) == (400, "bad-json")
    assert f"at byte {before + offset}" in answer.problem["detail"]


@pytest.mark.parametrize("body", [b"null", b"3", b'"task"', b"true"])
def test_other_json_is_no_request(site: Site, body: bytes) -> None:
    assert told(site.post(body)) == (400, "bad-json")


def test_an_unknown_task_is_told_with_the_nearest(site: Site) -> None:
    answer = site.run("sum_sqrt")
    assert told(answer) == (404, "unknown-task")
    assert answer.problem["detail"].endswith("did you mean sum-sqrt?")
    assert len(site.run("x" * 100_000).body) < 1000


def test_each_argument_that_is_wrong_is_named(site: Site) -> None:
    answer = site.run("describe", numbers=["a"], bins=0, bin=3, percentiles=[101])
    assert told(answer) == (422, "invalid-arguments")
    errors = {error["field"]: error["detail"] for error in answer.problem["errors"]}
    assert set(errors) == {"numbers", "bins", "bin", "percentiles"}
    assert "did you mean bins?" in errors["bin"]
    assert answer.problem["error"] == "Invalid arguments"


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b'{"task": 3, "args": []}', {"task", "args"}),
        (b'{"task": "echo", "arg": {}, "more": 1}', {"arg", "more"}),
        (b'{"task": null}', {"task"}),
    ],
)
def test_each_member_that_is_wrong_is_named(site: Site, body: bytes, fields: set[str]) -> None:
    answer = site.post(body)
    assert told(answer) == (422, "invalid-arguments")
    assert {error["field"] for error in answer.problem["errors"]} == fields


def test_a_failing_task_tells_what_it_raised_and_no_more(site: Site) -> None:
    answer = site.run("fail")
    assert told(answer) == (500, "task-failed")
    problem = answer.problem
    assert (problem["exception"], problem["message"]) == ("LookupError", "there is no such thing")
    assert "behaving.py" not in answer.body.decode()
    assert "Traceback" not in answer.body.decode()


@pytest.mark.parametrize(
    ("task", "wanted"), [("segfault", "worker-crashed"), ("unusable", "result-unusable"), ("exit", "task-failed")]
)
def test_how_a_task_ends_otherwise(site: Site, task: str, wanted: str) -> None:
    assert told(site.run(task)) == (500, wanted)


# -- whatever the size -------------------------------------------------------------------------------------------------


def _padded(body: bytes, size: int) -> bytes:
    return body + b" " * (size - len(body))


def _essence(answer: Answer) -> Any:
    if answer.status == 200:
        return result(answer)
    return {name: value for name, value in answer.problem.items() if name != "request_id"}


@pytest.mark.parametrize(
    "body",
    [
        request("echo", value="é"),
        request("sum-sqrt", n=10, m=1),
        request("sum-sqrt", n="x"),
        request("sum-sqr"),
        request("fail"),
        b'{"task": "echo", "args": 1}',
        b'{"task": "echo", "rags": {}}',
        b'{"task": "echo"',
        b"[1, 2]",
        b"3",
    ],
)
def test_answers_do_not_depend_on_how_much_is_parsed_whole(site: Site, body: bytes) -> None:
    wanted = site.post(body)
    for size in (MIB - 1, MIB, MIB + 1):
        answer = site.post(_padded(body, size))
        assert answer.status == wanted.status
        if b'"echo"' not in body or body.endswith(b"}"):  # otherwise the end is elsewhere
            assert _essence(answer) == _essence(wanted)


def test_a_large_request_names_no_reports(site: Site) -> None:
    site.ask("/api/report/large", "PUT", [("Content-Type", "text/csv")], CSV)
    body = request("sha256", report="large")
    assert result(site.post(_padded(body, MIB)))["size"] == len(CSV)
    answer = site.post(_padded(body, MIB + 1))
    assert told(answer) == (422, "invalid-arguments")
    assert [error["field"] for error in answer.problem["errors"]] == ["report"]


# -- over each protocol ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 2 * MIB])
def test_a_body_may_come_in_chunks(site: Site, size: int) -> None:
    body = _padded(request("echo", value="x"), size or 30)
    with RawClient(site.server.port) as client:
        client.send(
            b"POST /api/process HTTP/1.1\r\nHost: sluice\r\n"
            b"Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
        )
        for start in range(0, len(body), 100_001):
            part = body[start : start + 100_001]
            client.send(b"%x\r\n%b\r\n" % (len(part), part))
        client.send(b"0\r\n\r\n")
        head, found = client.answer()
    assert (head.status, found) == (200, {"result": "x"})


def test_http_1_0(site: Site) -> None:
    body = request("echo", value="x")
    with RawClient(site.server.port) as client:
        client.send(
            b"POST /api/process HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b"
            % (len(body), body)
        )
        head, found = client.answer()
        assert (head.status, found, client.read(1)) == (200, {"result": "x"}, b"")


@pytest.mark.parametrize("size", [30, 2 * MIB])
async def test_http_2(site: Site, size: int) -> None:
    with trio.fail_after(30):
        stream = await trio.open_tcp_stream("127.0.0.1", site.server.port)
        http2 = Http2(Client(stream, stream))
        async with stream:
            await http2.open()
            asked = await http2.ask("/api/process", ("content-type", "application/json"), method="POST", ends=False)
            await http2.upload(asked, _padded(request("echo", value="x"), size), ends=True)
            assert (await http2.head(asked))[":status"] == "200"
            assert await http2.body(asked) == b'{"result":"x"}'
            bare = await http2.ask("/api/process", method="POST")
            assert (await http2.head(bare))[":status"] == "200"


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_other_methods_are_refused(site: Site, method: str) -> None:
    answer = site.ask("/api/process", method)
    assert told(answer) == (405, "method-not-allowed")
    assert "POST" in answer.fields["allow"]
