"""The TOML file of the settings: what it may say, and what is said of a mistake in it."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from app.config.file import ConfigFile, TaskSettings, read_config_file
from app.errors import StartError
from app.settings import load_settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sluice.toml"


def mistakes(path: Path, content: str | bytes) -> tuple[str, ...]:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    config = read_config_file(str(path))
    assert config.tasks == TaskSettings()
    return config.mistakes


def test_without_a_file_there_are_only_defaults() -> None:
    assert read_config_file(None) == ConfigFile(TaskSettings(modules=()), mistakes=())


@pytest.mark.parametrize("content", ["", "# nothing\n", "[tasks]\n", "[tasks]\nmodules = []\n"])
def test_a_file_may_say_nothing(path: Path, content: str) -> None:
    assert mistakes(path, content) == ()


def test_modules_are_kept_in_order(path: Path) -> None:
    path.write_text('[tasks]\nmodules = ["b", "a.c", "naïve"]\n')
    assert read_config_file(str(path)).tasks.modules == ("b", "a.c", "naïve")


@pytest.mark.parametrize("given", ["/nowhere/sluice.toml", "/", "a\0b"])
def test_a_file_that_cannot_be_read_is_told(given: str) -> None:
    (line,) = read_config_file(given).mistakes
    assert line.startswith(f"SLUICE_CONFIG: {given!r} is not allowed: a TOML file")


@pytest.mark.parametrize("content", ["[tasks", "x", b"\xff", "a = 1\na = 2\n", f"a = {'[' * 20_000}"])
def test_what_is_no_toml_is_told_in_one_line(path: Path, content: str | bytes) -> None:
    (line,) = mistakes(path, content)
    assert line.startswith(f"SLUICE_CONFIG: {str(path)!r} is not allowed: a TOML file: ")
    assert len(line.splitlines()) == 1


def test_where_the_toml_is_wrong_is_told(path: Path) -> None:
    (line,) = mistakes(path, "[tasks]\nmodules 3\n")
    assert "(at line 2, column 9)" in line


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("[task]\n", "task: is not known; did you mean tasks?"),
        ("[lives]\n", "lives: is not known; did you mean live?"),
        ("module = 3\n", "module: is not known; known: tasks, aggregate, live"),
        ("[tasks]\nmodule = []\n", "tasks.module: is not known; did you mean tasks.modules?"),
        ("tasks = 3\n", "tasks: its value is not allowed: a table, [tasks]"),
        ("[[tasks]]\n", "tasks: its value is not allowed: a table, [tasks]"),
        ("[tasks]\nmodules = 'a'\n", "tasks.modules: 'a' is not allowed: a list of module names, such as "),
        ("[tasks]\nmodules = ['a', 3]\n", "tasks.modules: ['a', 3] is not allowed: a list of module names, such as "),
        ("[tasks]\nmodules = ['a/b.py']\n", "tasks.modules: ['a/b.py'] is not allowed: a list of module names"),
        ("[tasks]\nmodules = ['']\n", "tasks.modules: [''] is not allowed: a list of module names"),
        ("[tasks.modules]\n", "tasks.modules: {} is not allowed: a list of module names"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(path: Path, content: str, told: str) -> None:
    (line,) = mistakes(path, content)
    assert line.startswith(f"{path}: {told}")


def test_all_mistakes_are_told_with_those_of_the_environment(path: Path) -> None:
    path.write_text("[live]\nx = 1\n[tasks]\nmodules = 1\nx = 1\n")
    with pytest.raises(StartError) as caught:
        load_settings({"SLUICE_CONFIG": str(path), "PORT": "http"})
    assert sorted(line.removeprefix(f"{path}: ").partition(":")[0] for line in caught.value.lines) == [
        "PORT",
        "live.x",
        "tasks.modules",
        "tasks.x",
    ]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text("[]{}tasksmodule=\"'\n. ,1", max_size=60).map(str.encode))
def test_whatever_is_in_it_is_told_and_not_raised(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    assert isinstance(read_config_file(str(path)), ConfigFile)
