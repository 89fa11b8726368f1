"""Problem documents (RFC 9457), the one shape of every error."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

import app.errors
from app.errors import DatabaseUnavailable, MethodNotAllowed, ReportNotFound, ReportUnreadable, SluiceError
from app.http.problems import Problem, problem


def all_errors(family: type[SluiceError] = SluiceError) -> list[type[SluiceError]]:
    below = [error for child in family.__subclasses__() for error in all_errors(child)]
    return [family, *(error for error in below if error.__module__ == app.errors.__name__)]


def document(answer: Problem) -> dict[str, Any]:
    return json.loads(answer.body)


def test_a_problem_says_what_the_contract_lists() -> None:
    answer = problem(ReportNotFound("there is no report for user 'bob'"), "id-1")
    assert answer.status == 404
    assert document(answer) == {
        "type": "urn:sluice:error:report-not-found",
        "title": "Report not found",
        "status": 404,
        "detail": "there is no report for user 'bob'",
        "request_id": "id-1",
        "error": "Report not found",
    }
    assert dict(answer.headers) == {"content-type": "application/problem+json", "cache-control": "no-store"}


@pytest.mark.parametrize("error", all_errors())
def test_each_error_is_a_problem_of_its_status(error: type[SluiceError]) -> None:
    answer = problem(error("what happened"), "id-1")
    told = document(answer)
    assert answer.status == told["status"] == error.status
    assert 400 <= error.status < 600
    assert re.fullmatch(r"urn:sluice:error:[a-z]+(-[a-z]+)*", told["type"])
    assert told["error"] == told["title"] == error.title


def test_an_unexpected_error_keeps_the_words_of_the_original() -> None:
    assert document(problem(SluiceError("…"), "id-1"))["error"] == "Internal server error"


def test_what_is_internal_stays_inside() -> None:
    answer = problem(ReportUnreadable("the report's file cannot be read", internal="/srv/secret.pdf"), "id-1")
    assert b"secret" not in answer.body
    assert "secret" not in str(answer.headers)


@pytest.mark.parametrize(("seconds", "field"), [(0.0, "1"), (0.2, "1"), (1.0, "1"), (1.01, "2"), (30, "30")])
def test_retry_after_is_whole_seconds_rounded_up_and_never_0(seconds: float, field: str) -> None:
    assert dict(problem(DatabaseUnavailable("away", retry_after=seconds), "id-1").headers)["retry-after"] == field


def test_without_a_time_there_is_no_retry_after() -> None:
    assert "retry-after" not in dict(problem(DatabaseUnavailable("away"), "id-1").headers)


def test_headers_and_members_of_the_error_are_sent() -> None:
    error = MethodNotAllowed("allowed here: GET", headers={"allow": "GET"}, members={"sources": {"a": 1}})
    answer = problem(error, "id-1")
    assert dict(answer.headers)["allow"] == "GET"
    assert document(answer)["sources"] == {"a": 1}


def test_a_detail_in_any_script_is_utf8() -> None:
    answer = problem(ReportNotFound("für \u202e名 \x1b \"'\\"), "id-1")
    assert json.loads(answer.body.decode("utf-8"))["detail"] == "für \u202e名 \x1b \"'\\"
