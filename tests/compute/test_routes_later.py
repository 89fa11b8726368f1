"""``POST /api/process`` with ``Prefer``, limits of its parts, and ``Idempotency-Key``, on a real server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.compute.conftest import JSON, Site, request, result, send, serving, told
from tests.exchange import Answer
from tests.faults.traffic import RawClient, wait_until

MIB = 1024**2


# -- jobs --------------------------------------------------------------------------------------------------------------


def test_a_job_may_be_preferred_to_waiting(site: Site) -> None:
    gate = site.place("later")
    accepted = site.run("hold", {"Prefer": "respond-async"}, begun=str(gate), then=f"{gate}.go")
    assert accepted.status == 202
    assert accepted.fields["preference-applied"] == "respond-async"
    shown = json.loads(accepted.body)
    assert (shown["task"], accepted.fields["location"]) == ("hold", f"/api/jobs/{shown['id']}")
    site.job(accepted, "running")
    Path(f"{gate}.go").touch()
    over = site.job(accepted, "succeeded")
    assert (over["result"], over["error"]) == ("done", None)


def test_a_job_that_is_deleted_is_cancelled(site: Site) -> None:
    gate = site.place("deleted")
    accepted = site.run("hold", {"Prefer": "respond-async"}, begun=str(gate))
    wait_until(gate.exists, "it runs")
    assert site.ask(accepted.fields["location"], "DELETE").status == 204
    assert gate.with_suffix(".ended").exists()
    assert site.job(accepted, "cancelled")["error"]["type"] == "urn:sluice:error:task-cancelled"


def test_a_job_tells_the_last_of_its_progress(site: Site) -> None:
    accepted = site.run("hurry", {"Prefer": "respond-async"}, count=1000, fails=False)
    progress = site.job(accepted, "succeeded")["progress"]
    assert progress == {"done": 1000, "total": 1000, "message": "step 1000"}


@pytest.mark.parametrize(
    ("fields", "applied"),
    [
        ([("Prefer", "wait=20")], "wait=20"),
        ([("Prefer", "respond-async, wait=20")], "wait=20"),
        ([("Prefer", "respond-async"), ("Prefer", "wait=20")], "wait=20"),
        ([("Prefer", 'foo; bar="a,b", WAIT = "20"')], "wait=20"),
    ],
)
def test_a_result_that_is_ready_in_time_is_given(site: Site, fields: Any, applied: str) -> None:
    answer = site.run("echo", fields, value=[1])
    assert result(answer) == [1]
    assert answer.fields["preference-applied"] == applied
    job = json.loads(site.ask(answer.fields["content-location"]).body)
    assert (job["state"], job["result"]) == ("succeeded", [1])


@pytest.mark.parametrize("said", ["respond-async, wait=0", "wait=0", "wait=1"])
def test_one_that_is_not_is_not_waited_for(site: Site, said: str) -> None:
    gate = site.place(f"unready {said}")
    accepted = site.run("hold", {"Prefer": said}, begun=str(gate), then=f"{gate}.go")
    assert (accepted.status, accepted.fields["preference-applied"]) == (202, said)
    assert site.job(accepted, "queued", "running")["result"] is None
    Path(f"{gate}.go").touch()
    assert site.job(accepted, "succeeded")["result"] == "done"


@pytest.mark.parametrize("said", ["wait=x", "wait", "wait=-1", "respond-async=1", "return=minimal", "", "wait=1.5"])
def test_what_is_no_such_preference_changes_nothing(site: Site, said: str) -> None:
    answer = site.run("echo", {"Prefer": said}, value=1)
    assert result(answer) == 1
    assert not {"preference-applied", "content-location"} & set(answer.fields)


def test_the_longest_wait_is_within_the_time_of_a_request(site: Site, tmp_path: Path) -> None:
    """The job goes on, and is not what somebody preferred."""

    def waits(server: Site, **fields: str) -> None:
        gate = tmp_path / f"{len(list(tmp_path.iterdir()))}.mark"
        given = {"Prefer": "wait=1000000000"} | {name.replace("_", "-"): value for name, value in fields.items()}
        accepted = server.run("hold", given, begun=str(gate), then=f"{gate}.go")
        assert accepted.status == 202
        assert "preference-applied" not in accepted.fields
        Path(f"{gate}.go").touch()
        assert server.job(accepted, "succeeded")["result"] == "done"

    waits(site, Sluice_Deadline="1")
    (tmp_path / "short").mkdir()
    with serving(tmp_path / "short", SLUICE_REQUEST_DEADLINE="1s") as short:
        waits(short)


@pytest.mark.parametrize("said", [(), {"Prefer": "wait=20"}], ids=["at once", "by a job"])
def test_a_failure_is_the_same_problem_either_way(site: Site, said: Any) -> None:
    answer = site.run("fail", said)
    assert told(answer) == (500, "task-failed")
    problem = answer.problem
    assert problem["request_id"] == answer.fields["x-request-id"]
    del problem["request_id"]
    assert problem == {
        "type": "urn:sluice:error:task-failed",
        "title": "Task failed",
        "status": 500,
        "detail": "LookupError: there is no such thing",
        "error": "Task failed",
        "exception": "LookupError",
        "message": "there is no such thing",
    }
    assert answer.fields["cache-control"] == "no-store"


@pytest.mark.parametrize("body", [b'{"task":"nothing"}', b'{"task":"sum-sqrt","args":{"n":"x"}}', b"{"])
def test_what_is_wrong_is_told_before_there_is_a_job(site: Site, body: bytes) -> None:
    at_once = site.post(body)
    answer = site.post(body, [*JSON, ("Prefer", "respond-async")])
    assert told(answer) == told(at_once)
    assert "location" not in answer.fields


def test_a_large_request_may_be_a_job_too(site: Site) -> None:
    accepted = site.post(request("echo", value=1) + b" " * MIB, [*JSON, ("Prefer", "respond-async")])
    assert accepted.status == 202
    assert site.job(accepted, "succeeded")["result"] == 1


def test_a_large_result_is_elsewhere(site: Site) -> None:
    answer = site.run("much", {"Prefer": "wait=20"}, size=2 * MIB)
    assert (answer.status, answer.body, answer.fields["preference-applied"]) == (303, b"", "wait=20")
    found = site.ask(answer.fields["location"])
    assert (found.status, found.body) == (200, b'"' + b"x" * 2 * MIB + b'"')
    assert result(site.run("much", size=2 * MIB)) == "x" * 2 * MIB


def test_who_leaves_while_waiting_for_a_job_cancels_it(site: Site) -> None:
    gate = site.place("left")
    with RawClient(site.server.port) as client:
        send(client, request("hold", begun=str(gate)), "Prefer: wait=20\r\n")
        wait_until(gate.exists, "it runs")
        client.reset()
        wait_until(gate.with_suffix(".ended").exists, "it is told to end")


# -- limits of the parts -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Sluice-Queue-Deadline", "Sluice-Run-Deadline", "Sluice-Deadline"])
@pytest.mark.parametrize("value", ["0", "-1", "x", "", "1e3", "inf", "nan", "1, 2", "0x1", "1s"])
def test_limits_that_are_none_are_refused(site: Site, name: str, value: str) -> None:
    answer = site.run("echo", {name: value}, value=1)
    assert told(answer) == (400, "bad-deadline")
    assert name in answer.problem["detail"]


@pytest.mark.parametrize("value", ["0.5", "20.", ".5", "9" * 400, " 7 "])
def test_limits_that_are_not_reached_change_nothing(site: Site, value: str) -> None:
    fields = {"Sluice-Queue-Deadline": value, "Sluice-Run-Deadline": value}
    assert result(site.run("echo", fields, value=1)) == 1


def test_a_task_that_runs_too_long_is_ended(site: Site) -> None:
    mark = site.place("long")
    answer = site.run("hold", {"Sluice-Run-Deadline": "0.2", "X-Request-Id": "too-long"}, begun=str(mark))
    assert told(answer) == (504, "deadline")
    assert "0.2 s" in answer.problem["detail"]
    assert mark.with_suffix(".ended").exists()
    assert _logged(site, "too-long") == ("deadline", {"info"})


def _logged(site: Site, request_id: str) -> tuple[str, set[str]]:
    """A request's outcome, and the levels of all that is said of it."""

    def lines() -> list[dict[str, Any]]:
        return [line for line in site.server.log() if line.get("request_id") == request_id]

    wait_until(lambda: any(line["event"] == "request" for line in lines()), "it is logged")
    (request,) = [line for line in lines() if line["event"] == "request"]
    return request["outcome"], {line["level"] for line in lines()}


def test_a_failure_is_logged_as_an_error_with_its_traceback(site: Site) -> None:
    site.run("fail", {"X-Request-Id": "failing"})
    assert _logged(site, "failing") == ("error", {"error", "info"})
    (line,) = [line for line in site.server.events("task failed") if line["request_id"] == "failing"]
    assert "behaving.py" in line["reason"]


def test_a_task_that_does_not_check_in_is_killed(site: Site) -> None:
    answer = site.run("spin", {"Sluice-Run-Deadline": "0.2"}, begun=str(site.place("spinning")))
    assert told(answer) == (504, "deadline")
    assert result(site.run("echo", value=1)) == 1


@pytest.mark.parametrize("size", [0, MIB])
def test_a_task_that_waits_too_long_does_not_begin(narrow_site: Site, size: int) -> None:
    mark = narrow_site.place(f"unbegun-{size}")
    body = request("hold", begun=str(mark)) + b" " * size
    with narrow_site.holding(f"before-{size}"):
        answer = narrow_site.post(body, [*JSON, ("Sluice-Queue-Deadline", "0.1")])
        assert told(answer) == (504, "deadline")
        (narrow_site.folder / f"before-{size}.go").touch()
    assert result(narrow_site.run("echo", value=1)) == 1
    assert not mark.exists()


def test_a_job_keeps_its_limits(site: Site) -> None:
    mark = site.place("limited job")
    accepted = site.run("hold", {"Prefer": "respond-async", "Sluice-Run-Deadline": "0.2"}, begun=str(mark))
    assert site.job(accepted, "failed")["error"]["status"] == 504


# -- keys --------------------------------------------------------------------------------------------------------------


def _count(site: Site, key: str, name: str, *fields: tuple[str, str], fails: int = 0) -> Answer:
    return site.run("count", [("Idempotency-Key", key), *fields], path=str(site.folder / name), fails=fails)


@pytest.mark.parametrize("again", ["one", '"one"'])
def test_what_is_sent_again_is_not_done_again(site: Site, again: str) -> None:
    name = f"counted {len(again)}"
    key = f"{len(again)}-one"
    first = _count(site, key, name)
    assert result(first) == 1
    second = _count(site, again.replace("one", key), name)
    assert (second.status, second.body, second.fields["content-type"]) == (200, first.body, "application/json")
    assert second.fields["x-request-id"] != first.fields["x-request-id"]
    assert result(_count(site, f"{key}-other", name)) == 2


def test_a_job_is_not_begun_again(site: Site) -> None:
    asked = [_count(site, "job", "counted by a job", ("Prefer", "respond-async")) for _ in range(3)]
    assert {answer.status for answer in asked} == {202}
    assert len({answer.fields["location"] for answer in asked}) == 1
    assert {answer.fields["preference-applied"] for answer in asked} == {"respond-async"}
    assert site.job(asked[0], "succeeded")["result"] == 1


def test_a_key_is_for_one_request(site: Site) -> None:
    assert result(_count(site, "mismatch", "a")) == 1
    assert told(_count(site, "mismatch", "b")) == (422, "idempotency-mismatch")
    body = request("echo", value=1) + b" " * 2 * MIB
    assert told(site.post(body, [*JSON, ("Idempotency-Key", "mismatch")])) == (422, "idempotency-mismatch")


def test_a_key_whose_request_is_being_answered_is_taken(site: Site) -> None:
    gate = site.place("taken")
    body = request("hold", begun=str(gate), then=f"{gate}.go")
    fields = [*JSON, ("Idempotency-Key", "taken")]
    with RawClient(site.server.port) as client:
        send(client, body, "Idempotency-Key: taken\r\n")
        wait_until(gate.exists, "it runs")
        assert told(site.post(body, fields)) == (409, "idempotency-conflict")
        assert told(site.post(request("echo", value=1), fields)) == (422, "idempotency-mismatch")
        client.reset()
        wait_until(gate.with_suffix(".ended").exists, "it is ended")
    Path(f"{gate}.go").touch()
    wait_until(lambda: site.post(body, fields).status == 200, "the key is given back")


@pytest.mark.parametrize("key", ["", " ", '""', '"open', "a b", "é", "x" * 256, "a\tb", "one, two"])
def test_keys_that_are_none_are_refused(site: Site, key: str) -> None:
    answer = site.run("echo", {"Idempotency-Key": key.encode().decode("latin-1")}, value=1)
    assert told(answer) == (400, "bad-idempotency-key")


@pytest.mark.parametrize("said", ["", "wait=20"])
def test_a_failure_is_not_kept(site: Site, said: str) -> None:
    name = f"failing {said}"
    answers = [_count(site, name.replace(" ", "-"), name, ("Prefer", said), fails=2) for _ in range(4)]
    assert [answer.status for answer in answers] == [500, 500, 200, 200]
    assert {result(answer) for answer in answers[2:]} == {3}


def test_a_result_that_is_too_large_to_keep_is_given_all_the_same(site: Site) -> None:
    fields = [*JSON, ("Idempotency-Key", "large")]
    for _ in range(2):
        assert len(result(site.post(request("much", size=MIB + 1), fields))) == MIB + 1
