"""Arguments of a task: from JSON, by the types of its parameters, and what is wrong with each of them."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Annotated, Any, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Raw

from app.compute.stored_report import StoredReport
from app.errors import InvalidArguments
from app.http.strict_json import Buffer, decode_json

_MOST_MISTAKES = 100
# A look for the nearest name takes long beside all else.
_MOST_HINTS = 10
_FIELDS = msgspec.json.Decoder(dict[str, Raw])
_ReportId = Annotated[str, msgspec.Meta(min_length=1, max_length=128, description="user id of a stored report")]
_ReportIdOrNone = _ReportId | None


@dataclass(frozen=True)
class Parameter:
    """One argument of a task. default: where it is not required. is_report: it names a stored report."""

    name: str
    type: Any
    required: bool
    default: object = None
    is_report: bool = False


class Arguments:
    """What decodes the arguments for ``parameters``, made once for a task.

    *Errors*: TypeError for a type that JSON has no word for, or that msgspec cannot tell from another one.
    """

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._types = {parameter.name: _json_type(parameter) for parameter in parameters}
        self._required = [parameter.name for parameter in parameters if parameter.required]
        self._defaults = {each.name: _json_default(each) for each in parameters if not each.required}
        self.report_fields = tuple(parameter.name for parameter in parameters if parameter.is_report)
        self._whole = msgspec.json.Decoder(_struct(self._types, self._required, forbid_unknown_fields=True))
        reports = {name: self._types[name] for name in self.report_fields}
        self._reports = msgspec.json.Decoder(_struct(reports, [], forbid_unknown_fields=False))
        raw_reports = dict.fromkeys(reports, Raw)
        self._raw_reports = msgspec.json.Decoder(_struct(raw_reports, [], forbid_unknown_fields=False))
        self._each = {name: msgspec.json.Decoder[Any](json_type) for name, json_type in self._types.items()}
        self.schema()

    def decode(self, raw: Buffer) -> dict[str, Any]:
        """The arguments that ``raw``, an object or nothing, gives; those of reports as user ids.

        *Errors*: BadJson; InvalidArguments.
        """
        raw = raw or b"{}"
        try:
            return _given(self._types, decode_json(self._whole, raw))
        except msgspec.ValidationError as error:
            raise invalid_arguments(self._mistakes(raw), str(error)) from None

    def report_ids(self, raw: Buffer) -> dict[str, str]:
        """The user ids of the reports that ``raw`` names, by argument; nothing else is looked into.

        *Errors*: BadJson; InvalidArguments, which names those that are none."""
        if not self.report_fields or not raw:
            return {}
        try:
            ids = _given(self.report_fields, decode_json(self._reports, raw))
        except msgspec.ValidationError as error:
            raise invalid_arguments(self._wrong_reports(raw), str(error)) from None
        return {name: user_id for name, user_id in ids.items() if user_id is not None}

    def schema(self) -> dict[str, Any]:
        """JSON Schema (2020-12) of the object of arguments."""
        schemas, definitions = msgspec.json.schema_components(self._types.values())
        properties = dict(zip(self._types, schemas, strict=True))
        for name, default in self._defaults.items():
            properties[name] = {**properties[name], "default": default}
        schema: dict[str, Any] = {"type": "object", "properties": properties, "required": self._required}
        schema["additionalProperties"] = False
        return {**schema, "$defs": definitions} if definitions else schema

    def _mistakes(self, raw: Buffer) -> list[dict[str, str]]:
        """One for each field that is wrong, missing or unknown."""
        try:
            fields = decode_json(_FIELDS, raw)
        except msgspec.ValidationError as error:
            return [_mistake("args", str(error))]
        missing = [_mistake(name, "is missing") for name in self._required if name not in fields]
        known = {name: value for name, value in fields.items() if name in self._types}
        wrong = [each for name, value in known.items() for each in self._wrong(name, value)]
        return [*wrong, *missing, *self._unknown(fields)]

    def _wrong_reports(self, raw: Buffer) -> list[dict[str, str]]:
        try:
            fields = _given(self.report_fields, decode_json(self._raw_reports, raw))
        except msgspec.ValidationError as error:
            return [_mistake("args", str(error))]
        return [each for name, value in fields.items() for each in self._wrong(name, value)]

    def _wrong(self, name: str, value: Raw) -> list[dict[str, str]]:
        try:
            decode_json(self._each[name], value)
        except msgspec.ValidationError as error:
            return [_mistake(name, str(error).replace("`$", f"`{name}"))]
        return []

    def _unknown(self, fields: Mapping[str, Raw]) -> Iterator[dict[str, str]]:
        """Of the first that are no arguments."""
        known = f"known are: {', '.join(self._types) or 'none'}"
        names = (name for name in fields if name not in self._types)
        for at, name in enumerate(islice(names, _MOST_MISTAKES)):
            nearest = difflib.get_close_matches(name[:100], self._types, n=1) if at < _MOST_HINTS else []
            hint = f"did you mean {nearest[0]}?" if nearest else known
            yield _mistake(name, f"is not an argument of this task; {hint}")


def invalid_arguments(mistakes: Sequence[Mapping[str, str]], otherwise: str = "") -> InvalidArguments:
    """The error that names each field. mistakes: ``{"field": NAME, "detail": …}``. otherwise: in words, without any."""
    told = mistakes[:_MOST_MISTAKES]
    words = "; ".join(f"{each['field']}: {each['detail']}" for each in told) or otherwise
    return InvalidArguments(words, members={"errors": list(told)})


def invalid_argument(field: str, detail: str) -> InvalidArguments:
    """What a task raises where only it can see what is wrong with an argument."""
    return invalid_arguments([_mistake(field, detail)])


def names_report(annotation: Any) -> bool:
    """Whether an argument of this type is a stored report, or may be none.

    *Errors*: TypeError where a report is further inside.
    """
    if annotation is StoredReport:
        return True
    inside = [each for each in get_args(annotation) if each is not types.NoneType]
    if get_origin(annotation) is Annotated:
        inside = inside[:1]
    elif get_origin(annotation) not in {types.UnionType, Union} or len(inside) > 1:
        if any(names_report(each) for each in inside if not isinstance(each, (str, int))):
            raise TypeError("StoredReport cannot be inside another type; only StoredReport | None")
        return False
    return names_report(inside[0])


def _mistake(field: str, detail: str) -> dict[str, str]:
    return {"field": field if len(field) <= 100 else f"{field[:100]}…", "detail": detail}


def _json_type(parameter: Parameter) -> Any:
    if not parameter.is_report:
        return parameter.type
    return _ReportId if parameter.required else _ReportIdOrNone


def _json_default(parameter: Parameter) -> Any:
    if parameter.is_report and parameter.default is not None:
        raise TypeError(f"{parameter.name}: the default of a StoredReport can only be None")
    return msgspec.json.decode(msgspec.json.encode(parameter.default))


def _struct(types_by_name: Mapping[str, Any], required: Sequence[str], *, forbid_unknown_fields: bool) -> Any:
    """A struct whose fields are numbered, because a field may not be called as each parameter may."""
    fields = [
        (f"f{at}", json_type) if name in required else (f"f{at}", json_type, UNSET)
        for at, (name, json_type) in enumerate(types_by_name.items())
    ]
    rename = {f"f{at}": name for at, name in enumerate(types_by_name)}
    return msgspec.defstruct(
        "Arguments", fields, rename=rename, kw_only=True, forbid_unknown_fields=forbid_unknown_fields
    )


def _given(names: Sequence[str] | Mapping[str, Any], struct: Any) -> dict[str, Any]:
    values = ((name, getattr(struct, f"f{at}")) for at, name in enumerate(names))
    return {name: value for name, value in values if value is not UNSET}
