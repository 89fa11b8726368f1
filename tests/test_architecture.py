"""What one part of the repository says of another stays true: settings, README, schema, errors."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import alembic.config
import pytest
from alembic.script import ScriptDirectory

import app
from app.errors import SluiceError
from app.settings import VARIABLES, Settings, Variable, load_settings
from app.storage.schema import HEAD
from app.transforms.registry import steps_by_name

APP = Path(app.__file__).parent
README = (APP.parent / "README.md").read_text()
MODULES = [path for path in sorted(APP.rglob("*.py")) if path.name != "settings.py"]
# By these names a room's settings are read: `settings.server.port`, or `server.port`, or `settings.port` in the room.
ROOMS = {room.name: getattr(load_settings({}), room.name) for room in dataclasses.fields(Settings)}
FIELDS = [(room, field.name) for room, part in ROOMS.items() for field in dataclasses.fields(part)]


def table_rows() -> list[list[str]]:
    """The cells of each row of each table of the README."""
    lines = [line.strip() for line in README.splitlines()]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines if line.startswith("|")]


def attributes_read() -> set[tuple[str, str]]:
    """``(a, b)`` for each ``a.b`` and each ``….a.b`` that is read in the application."""
    read: set[tuple[str, str]] = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Attribute(value=ast.Name(id=of) | ast.Attribute(attr=of), attr=name, ctx=ast.Load()):
                    read.add((of.strip("_"), name))
                case _:
                    pass
    return read


@pytest.mark.parametrize(("room", "name"), FIELDS, ids=[".".join(field) for field in FIELDS])
def test_each_setting_is_read_somewhere(room: str, name: str) -> None:
    assert attributes_read() & {(room, name), ("settings", name)}


@pytest.mark.parametrize("variable", VARIABLES, ids=[variable.name for variable in VARIABLES])
def test_each_setting_is_documented_with_its_default(variable: Variable) -> None:
    default = f"`{variable.default}`" if variable.default else ""
    assert [row[1] for row in table_rows() if row[0] == f"`{variable.name}`"] == [default]


@pytest.mark.parametrize("alias", [variable.alias for variable in VARIABLES if variable.alias])
def test_each_alias_is_documented(alias: str) -> None:
    assert f"`{alias}`" in README


def test_no_setting_is_documented_that_does_not_exist() -> None:
    documented = set(re.findall(r"\bSLUICE_[A-Z][A-Z_]*\b|\bDB_[A-Z][A-Z_]*\b", README))
    assert documented <= {variable.name for variable in VARIABLES}


@pytest.mark.parametrize("step", steps_by_name(200))
def test_each_step_is_documented(step: str) -> None:
    documented = {name for row in table_rows() for name in re.findall(r"`([a-z0-9-]+)[^`]*`", row[0])}
    assert step in documented


def test_each_type_of_problem_is_documented_with_its_status() -> None:
    def below(family: type[SluiceError]) -> list[type[SluiceError]]:
        return [family, *(error for child in family.__subclasses__() for error in below(child))]

    documented = {(name, row[1]) for row in table_rows() for name in re.findall(r"`([a-z-]+)`", row[0])}
    problems = {(error.name, str(error.status)) for error in below(SluiceError)}
    assert problems <= documented


def test_the_schema_that_the_program_needs_is_that_of_the_newest_migration() -> None:
    config = alembic.config.Config()
    config.set_main_option("script_location", str(APP / "storage" / "migrations"))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]
