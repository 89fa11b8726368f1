"""Where tasks are found, and what is said where they are not."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.compute.registry import DEFAULT_TASK, load_tasks, task_named
from app.errors import StartError, UnknownTask
from tests.compute import plugin

BUILT_IN = ["sum-sqrt", "describe", "sha256"]
TASK = "from app.compute import task\n@task(name={name!r})\ndef function() -> None: ...\n"
type Write = Callable[..., str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes a module that can be imported while the test runs."""
    monkeypatch.syspath_prepend(str(tmp_path))
    before = set(sys.modules)

    def write(name: str, content: str) -> str:
        (tmp_path / f"{name}.py").write_text(content)
        importlib.invalidate_caches()
        return name

    yield write
    for name in set(sys.modules) - before:
        del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, write: Write) -> Callable[[str], None]:
    """Makes it look as if a package with these entry points were installed."""

    def install(entry_points: str) -> None:
        folder = tmp_path / "extra-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: extra\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[sluice.tasks]\n{entry_points}\n")

    return install


def mistakes(*modules: str) -> tuple[str, ...]:
    with pytest.raises(StartError) as caught:
        load_tasks(modules)
    assert not [line for line in caught.value.lines if len(line.splitlines()) != 1]
    return caught.value.lines


# -- found -------------------------------------------------------------------------------------------------------------


def test_the_built_in_tasks() -> None:
    tasks = load_tasks(())
    assert list(tasks) == BUILT_IN
    assert DEFAULT_TASK in tasks
    assert all(name == task.name and task.meaning for name, task in tasks.items())
    assert tasks[DEFAULT_TASK].decode(b"") == {}


def test_no_task_can_be_added_later() -> None:
    with pytest.raises(TypeError):
        load_tasks(())["other"] = load_tasks(())[DEFAULT_TASK]  # type: ignore[index]


def test_the_tasks_of_a_module() -> None:
    tasks = load_tasks(["tests.compute.plugin"])
    assert list(tasks) == [*BUILT_IN, "plugin.double"]
    double = tasks["plugin.double"]
    assert double.function is plugin.double
    assert double.function(**double.decode(b'{"number": 21}')) == 42


def test_a_module_that_is_named_twice_counts_once() -> None:
    assert load_tasks(["tests.compute.plugin"] * 2) == load_tasks(["tests.compute.plugin"])


def test_a_module_may_use_a_task_of_another_one(write: Write) -> None:
    content = TASK.format(name="own") + "from app.compute.summing import sum_sqrt\n"
    assert list(load_tasks([write("using", content)])) == [*BUILT_IN, "own"]


def test_entry_points_are_modules_or_tasks(write: Write, install: Callable[[str], None]) -> None:
    write("whole", TASK.format(name="a"))
    write("part", TASK.format(name="b") + TASK.format(name="not-told").replace("function", "other"))
    install("whole = whole\npart = part:function")
    assert sorted(load_tasks(())) == sorted([*BUILT_IN, "a", "b"])
    assert sorted(load_tasks(["tests.compute.plugin"])) == sorted([*BUILT_IN, "a", "b", "plugin.double"])


def test_a_task_is_found_by_its_name_and_else_the_nearest_is_told() -> None:
    tasks = load_tasks(())
    assert task_named(tasks, "sha256") is tasks["sha256"]
    with pytest.raises(UnknownTask, match="'sumsqrt'; did you mean sum-sqrt"):
        task_named(tasks, "sumsqrt")
    with pytest.raises(UnknownTask) as caught:
        task_named(tasks, "\n" * 1_000_000)
    assert len(caught.value.detail) < 400


# -- not found ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("import nowhere", "cannot be imported: ModuleNotFoundError: No module named 'nowhere'"),
        ("x = (", "cannot be imported: SyntaxError"),
        ("raise ValueError('a\\nb')", "cannot be imported: ValueError: a b"),
        ("raise SystemExit(3)", "cannot be imported: SystemExit: 3"),
        (
            "from app.compute import task\n@task\ndef bad(a) -> None: ...",
            "cannot be imported: TypeError: task wrong.bad: a: has no annotation",
        ),
        ("", "has no task in it"),
        ("from app.compute import task, progress, checkpoint, Cancelled", "has no task in it"),
    ],
)
def test_a_module_without_tasks_is_told(write: Write, content: str, told: str) -> None:
    (line,) = mistakes(write("wrong", content))
    assert line.startswith(f"task module wrong: {told}")


def test_a_module_that_is_not_there() -> None:
    (line,) = mistakes("nowhere.at.all")
    assert line == "task module nowhere.at.all: cannot be imported: ModuleNotFoundError: No module named 'nowhere'"


@pytest.mark.parametrize("value", ["nowhere", "json", "json:dumps", "json:nothing"])
def test_an_entry_point_without_tasks_is_told(value: str, install: Callable[[str], None]) -> None:
    install(f"extra = {value}")
    (line,) = mistakes()
    assert line.startswith(f"entry point extra = {value} of sluice.tasks: ")


def test_two_tasks_with_one_name_are_told(write: Write) -> None:
    write("first", TASK.format(name="sha256"))
    write("second", TASK.format(name="ours"))
    write("third", TASK.format(name="ours"))
    built_in, ours = mistakes("first", "second", "third")
    assert built_in == "task module first: first.function: there is a task sha256 already, of app.compute.hashing"
    assert ours == "task module third: third.function: there is a task ours already, of task module second"


def test_two_tasks_of_a_module_with_one_name_are_told(write: Write) -> None:
    write("twice", TASK.format(name="ours") + TASK.format(name="ours").replace("function", "other"))
    (line,) = mistakes("twice")
    assert line == "task module twice: twice.other: there is a task ours already, of task module twice"


def test_all_that_is_wrong_is_told_at_once(write: Write, install: Callable[[str], None]) -> None:
    install("extra = nowhere")
    lines = mistakes(write("wrong", ""), "elsewhere", "tests.compute.plugin")
    assert [line.partition(":")[0] for line in lines] == [
        "entry point extra = nowhere of sluice.tasks",
        "task module wrong",
        "task module elsewhere",
    ]


# -- in a worker -------------------------------------------------------------------------------------------------------


def test_a_worker_loads_nothing_heavy_for_the_tasks() -> None:
    code = (
        "import sys; before = set(sys.modules); import app.compute.worker; app.compute.worker.load_tasks(());"
        "print(*set(sys.modules) - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    loaded = set(done.stdout.split())
    assert "app.compute.describing" in loaded
    assert not loaded & {"trio", "quart", "hypercorn", "numpy", "asyncio", "structlog", "ssl", "sqlite3"}
