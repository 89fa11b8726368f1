"""Tasks: what may be one, and what its arguments are decoded to."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, dataclass
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.compute import Cancelled, StoredReport, checkpoint, progress, task
from app.compute.tasks import Task, set_hooks, task_of
from app.errors import BadJson, InvalidArguments

REPORT = StoredReport("ada", "text/csv", 3, "/nowhere")


class Point(msgspec.Struct, forbid_unknown_fields=True):
    x: int
    y: int = 0


@dataclass
class Window:
    start: float
    end: float


@task(name="everything", retry=True)
def everything(
    n: Annotated[int, msgspec.Meta(ge=0, le=10, description="how many")],
    mode: Literal["fast", "slow"] = "fast",
    *,
    names: list[str] | None = None,
    point: Point | None = None,
    window: Window | None = None,
    ratio: float = 0.5,
) -> dict[str, Any]:
    """Takes all kinds of arguments.

    And says more.
    """
    return {"n": n, "mode": mode, "names": names, "point": point, "window": window, "ratio": ratio}


@task(name="reading")
def reading(report: StoredReport, other: StoredReport | None = None, n: int = 1) -> str:
    return report.user_id


def made(function: object) -> Task:
    found = task_of(function)
    assert found is not None
    return found


EVERYTHING, READING = made(everything), made(reading)


def mistakes(task: Task, arguments: object) -> dict[str, str]:
    """What is wrong, by field."""
    with pytest.raises(InvalidArguments) as caught:
        task.decode(json.dumps(arguments).encode())
    errors = caught.value.members["errors"]
    assert isinstance(errors, list)
    told = {error["field"]: error["detail"] for error in errors}
    assert len(told) == len(errors)
    assert all(f"{field}: {detail}" in caught.value.detail for field, detail in told.items())
    return told


# -- what a task is ----------------------------------------------------------------------------------------------------


def test_a_task_stays_the_function_it_was() -> None:
    assert everything(3, names=["a"])["names"] == ["a"]
    assert everything.__name__ == "everything"


def test_what_is_known_of_a_task() -> None:
    assert (EVERYTHING.name, EVERYTHING.retry) == ("everything", True)
    assert EVERYTHING.meaning == "Takes all kinds of arguments."
    assert EVERYTHING.function is everything
    assert [each.name for each in EVERYTHING.parameters] == ["n", "mode", "names", "point", "window", "ratio"]
    assert [each.required for each in EVERYTHING.parameters] == [True, *[False] * 5]
    assert EVERYTHING.parameters[-1].default == 0.5
    assert (READING.meaning, READING.retry) == ("", False)


def test_a_task_cannot_be_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        EVERYTHING.name = "other"  # type: ignore[misc]


def test_a_task_may_take_the_name_of_its_function() -> None:
    @task
    def count_words() -> None: ...

    @task()
    def second() -> None: ...

    assert [made(each).name for each in (count_words, second)] == ["count-words", "second"]


@pytest.mark.parametrize("value", [3, None, print, len, Task, dict])
def test_what_is_no_task(value: object) -> None:
    assert task_of(value) is None


@pytest.mark.parametrize("name", ["a", "0", "sum-sqrt", "our.tasks_2", "a" * 128])
def test_a_name_that_is_allowed(name: str) -> None:
    assert made(task(name=name)(lambda: None)).name == name


@pytest.mark.parametrize("name", ["", "A", "-a", ".a", "a b", "a/b", "é", "a\n", "a" * 129])
def test_a_name_that_is_not_allowed(name: str) -> None:
    with pytest.raises(TypeError, match=r"test_tasks.*is not allowed: 1 to 128"):
        task(name=name)(lambda: None)


# -- what cannot be a task ---------------------------------------------------------------------------------------------


def unannotated(a: int, b) -> None: ...  # type: ignore[no-untyped-def]


def several(*args: int) -> None: ...


def any_names(**kwargs: int) -> None: ...


def positional(a: int, /) -> None: ...


def unknown_type(a: Nowhere) -> None: ...  # type: ignore[name-defined]  # noqa: F821


def complex_number(a: complex) -> None: ...


def indistinct(a: Point | Window) -> None: ...


def bad_constraint(a: Annotated[str, msgspec.Meta(ge=3)]) -> None: ...


def inner_report(a: list[StoredReport]) -> None: ...


def either_report(a: StoredReport | int) -> None: ...


def default_report(a: StoredReport = REPORT) -> None: ...


def default_without_json(a: Any = complex) -> None: ...


async def asynchronous() -> None: ...


def generator() -> Iterator[int]:
    yield 1


REFUSED: dict[Callable[..., Any], str] = {
    unannotated: "b: has no annotation",
    several: "args: is no argument that can be given by its name",
    any_names: "kwargs: is no argument",
    positional: "a: is no argument",
    unknown_type: "Nowhere",
    complex_number: "complex",
    indistinct: "more than one",
    bad_constraint: "numeric",
    inner_report: "StoredReport cannot be inside another type",
    either_report: "StoredReport cannot be inside another type",
    default_report: "a: the default of a StoredReport can only be None",
    default_without_json: "type",
    asynchronous: "is no plain function",
    generator: "is no plain function",
}


@pytest.mark.parametrize("function", REFUSED, ids=[each.__name__ for each in REFUSED])
def test_what_cannot_be_a_task(function: Callable[..., Any]) -> None:
    with pytest.raises(TypeError, match=REFUSED[function]) as caught:
        task(name="refused")(function)
    assert function.__name__ in str(caught.value)
    assert task_of(function) is None


def test_only_a_function_can_be_a_task() -> None:
    for value in (print, Point, 3):
        with pytest.raises(TypeError, match="is no plain function"):
            task(value)  # type: ignore[call-overload]


# -- while it runs -----------------------------------------------------------------------------------------------------


class Recorder:
    def __init__(self) -> None:
        self.reports: list[tuple[float, float | None, str]] = []
        self.checks = 0
        self.cancelled = False

    def check(self) -> None:
        self.checks += 1
        if self.cancelled:
            raise Cancelled

    def report(self, done: float, total: float | None, message: str) -> None:
        self.reports.append((done, total, message))


@pytest.fixture
def hooks() -> Iterator[Recorder]:
    recorder = Recorder()
    set_hooks(recorder)
    yield recorder
    set_hooks(None)


def test_outside_of_a_worker_nothing_listens() -> None:
    checkpoint()
    progress(1)


def test_what_a_task_says_arrives(hooks: Recorder) -> None:
    progress(1)
    progress(2.5, 10, "so far")
    checkpoint()
    assert hooks.reports == [(1, None, ""), (2.5, 10, "so far")]
    assert hooks.checks == 3


@pytest.mark.parametrize("call", [checkpoint, lambda: progress(1)])
def test_a_task_that_is_to_end_learns_it_wherever_it_looks(hooks: Recorder, call: Callable[[], None]) -> None:
    hooks.cancelled = True
    with pytest.raises(Cancelled):
        call()
    assert not hooks.reports


def test_code_that_catches_errors_lets_a_cancellation_pass() -> None:
    assert not issubclass(Cancelled, Exception)


# -- arguments ---------------------------------------------------------------------------------------------------------


def test_arguments_are_decoded_by_their_types() -> None:
    arguments = {
        "n": 3,
        "mode": "slow",
        "names": ["a", "é"],
        "point": {"x": 1},
        "window": {"start": 0, "end": 1.5},
        "ratio": 1,
    }
    assert EVERYTHING.decode(json.dumps(arguments).encode()) == {
        **arguments,
        "point": Point(1, 0),
        "window": Window(0.0, 1.5),
        "ratio": 1.0,
    }


@pytest.mark.parametrize("raw", [b'{"n": 1}', b' {"n":1}\n', memoryview(b'{"\\u006e":1}')])
def test_what_is_not_given_is_left_to_the_function(raw: bytes) -> None:
    assert EVERYTHING.decode(raw) == {"n": 1}


def test_none_given_is_not_the_same_as_nothing_given() -> None:
    assert EVERYTHING.decode(b'{"n": 1, "names": null}') == {"n": 1, "names": None}


@pytest.mark.parametrize("raw", [b"", memoryview(b""), b"{}"])
def test_no_arguments(raw: bytes) -> None:
    @task
    def nothing(n: int = 1) -> None: ...

    assert made(nothing).decode(raw) == {}
    with pytest.raises(InvalidArguments, match="n: is missing"):
        EVERYTHING.decode(raw)


def test_each_field_that_is_wrong_missing_or_unknown_is_named() -> None:
    given = {"mode": "fats", "names": ["a", 1], "point": {"x": "1"}, "window": {"start": 1}, "ration": 1, "": 1}
    assert mistakes(EVERYTHING, given) == {
        "n": "is missing",
        "mode": "Invalid enum value 'fats'",
        "names": "Expected `str`, got `int` - at `names[1]`",
        "point": "Expected `int`, got `str` - at `point.x`",
        "window": "Object missing required field `end`",
        "ration": "is not an argument of this task; did you mean ratio?",
        "": "is not an argument of this task; known are: n, mode, names, point, window, ratio",
    }


@pytest.mark.parametrize("n", [-1, 11, 1.5, "1", None, True, [1], {}, 10**30, 1e300])
def test_a_value_that_its_annotation_refuses(n: object) -> None:
    assert list(mistakes(EVERYTHING, {"n": n})) == ["n"]


@pytest.mark.parametrize("ratio", [b"1e999", b"-1e999", b"1" + b"0" * 400])
def test_a_number_that_no_float_holds(ratio: bytes) -> None:
    with pytest.raises(InvalidArguments, match="ratio: Number out of range"):
        EVERYTHING.decode(b'{"n":1,"ratio":%b}' % ratio)


@pytest.mark.parametrize("raw", [b"[]", b"3", b"null", b'"n"'])
def test_arguments_that_are_no_object(raw: bytes) -> None:
    with pytest.raises(InvalidArguments, match="args: Expected `object`"):
        EVERYTHING.decode(raw)


@pytest.mark.parametrize(
    ("raw", "offset"),
    [
        (b'{"n":1', 6),
        (b'{"n":NaN}', 5),
        (b'{"n":1,"names":["\xff"]}', 17),
        (b'{"n":1}}', 7),
        (b'{"mode":3,"n":01}', 15),
        (b'{"x":1,"n":tru}', 12),
        (b'\xef\xbb\xbf{"n":1}', 0),
        (b'{"names":["\\ud800"]}', 17),
    ],
)
def test_malformed_json_is_told_with_its_offset(raw: bytes, offset: int) -> None:
    with pytest.raises(BadJson, match=r"at byte \d+: ") as caught:
        EVERYTHING.decode(raw)
    assert caught.value.members["offset"] == offset


def test_more_nesting_than_a_stack_takes() -> None:
    @task
    def anything(value: Any) -> None: ...

    deep = b'{"value":%b%b}' % (b"[" * 300_000, b"]" * 300_000)
    for of in (EVERYTHING, made(anything)):
        with pytest.raises(BadJson, match="nested too deeply"):
            of.decode(deep)


class Given(TypedDict, total=False):
    n: int
    mode: Literal["fast", "slow"]
    names: list[str] | None
    ratio: float


@settings(max_examples=150, deadline=None)
@given(
    st.fixed_dictionaries(
        {"n": st.integers(0, 10)},
        optional={
            "mode": st.sampled_from(["fast", "slow"]),
            "names": st.none() | st.lists(st.text()),
            "ratio": st.floats(allow_nan=False, allow_infinity=False),
        },
    ),
    st.booleans(),
)
def test_what_is_encoded_is_decoded(arguments: Given, ascii_only: bool) -> None:
    raw = json.dumps(arguments, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert EVERYTHING.decode(raw) == EVERYTHING.decode(memoryview(raw)) == arguments


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=40) | st.text('{}[]"n:,-1e.mode truefalse\\ud8', max_size=40).map(str.encode))
def test_whatever_comes_is_decoded_or_refused_in_our_words(raw: bytes) -> None:
    for of in (EVERYTHING, READING):
        try:
            of.report_ids(raw)
            assert isinstance(of.decode(raw, {"report": REPORT, "other": REPORT}), dict)
        except (BadJson, InvalidArguments):
            continue


# -- stored reports ----------------------------------------------------------------------------------------------------


def test_an_argument_that_names_a_report() -> None:
    assert READING.report_fields == ("report", "other")
    assert READING.report_ids(b'{"n": 3, "report": "ada"}') == {"report": "ada"}
    assert READING.report_ids(b'{"report": "ada", "other": null}') == {"report": "ada"}
    assert READING.report_ids(b'{"other": "bob", "report": "ada"}') == {"report": "ada", "other": "bob"}
    assert READING.report_ids(b"") == {}


def test_a_task_without_reports_names_none() -> None:
    assert EVERYTHING.report_fields == ()
    assert EVERYTHING.report_ids(b"no JSON") == {}


def test_the_report_itself_is_what_the_task_gets() -> None:
    assert READING.decode(b'{"report": "ada", "other": null}', {"report": REPORT}) == {"report": REPORT, "other": None}


def test_a_report_that_was_not_opened_is_refused() -> None:
    with pytest.raises(InvalidArguments, match="report: names a report"):
        READING.decode(b'{"report": "ada"}')


@pytest.mark.parametrize("user_id", ["", "a" * 129, 3, None, ["ada"]])
def test_what_names_no_report(user_id: object) -> None:
    arguments = {"report": user_id, "m": 1}
    assert set(mistakes(READING, arguments)) == {"report", "m"}
    if user_id is not None:
        with pytest.raises(InvalidArguments, match=r"^report: Expected `str`[^;]*$"):
            READING.report_ids(json.dumps(arguments).encode())


def test_a_stored_report_is_read(tmp_path: Any) -> None:
    (tmp_path / "file").write_bytes(b"abc")
    report = StoredReport("ada", "text/plain", 3, str(tmp_path / "file"))
    for _ in range(2):
        with report.open() as file:
            assert file.read() == b"abc"


# -- the schema --------------------------------------------------------------------------------------------------------


def test_the_schema_says_what_is_allowed() -> None:
    schema = EVERYTHING.schema()
    assert json.loads(json.dumps(schema)) == schema
    assert (schema["type"], schema["required"], schema["additionalProperties"]) == ("object", ["n"], False)
    properties = schema["properties"]
    assert properties["n"] == {"type": "integer", "minimum": 0, "maximum": 10, "description": "how many"}
    assert properties["mode"] == {"enum": ["fast", "slow"], "default": "fast"}
    assert properties["ratio"] == {"type": "number", "default": 0.5}
    assert properties["names"]["default"] is None
    assert properties["point"]["anyOf"] == [{"$ref": "#/$defs/Point"}, {"type": "null"}]
    assert schema["$defs"]["Point"]["required"] == ["x"]


def test_a_report_is_a_string_in_the_schema() -> None:
    report = READING.schema()["properties"]["report"]
    assert (report["type"], report["description"]) == ("string", "user id of a stored report")
    assert READING.schema()["required"] == ["report"]
