"""What a request for a task says: which one, and its arguments, which are not looked into."""

from __future__ import annotations

import re
from itertools import islice

import msgspec
from msgspec import UNSET, Raw, UnsetType

from app.compute.arguments import invalid_arguments
from app.errors import BadJson
from app.http.strict_json import Buffer, decode_json, well_formed

DEFAULT_TASK = "sum-sqrt"
_SPACE = b" \t\n\r"
# A larger request is not taken apart to tell of all that is wrong.
_LISTED_BYTES = 64 * 1024
_MOST_UNKNOWN = 100
_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_WANTED = 'wanted is an object: {"task": NAME, "args": {…}}, or one without a task'


class _Request(msgspec.Struct, forbid_unknown_fields=True):
    task: Raw | UnsetType = UNSET
    args: Raw | UnsetType = UNSET


class _Open(msgspec.Struct):
    """The same, whatever else is there."""

    task: Raw | UnsetType = UNSET


_request, _open = msgspec.json.Decoder(_Request), msgspec.json.Decoder(_Open)
_name, _members = msgspec.json.Decoder(str), msgspec.json.Decoder(dict[str, Raw])


def parse_request(raw: Buffer) -> tuple[str, Buffer]:
    """The name of the task, and its arguments: a JSON object, or nothing; in ``raw``'s own bytes if it is a view.

    The body of the original's clients is an object without ``task``, an array, or nothing: for `DEFAULT_TASK`, without
    arguments, whatever it contains.
    *Errors*: BadJson; InvalidArguments, which names each member that is wrong.
    """
    first = _first(raw)
    if first != b"{":
        if first:
            well_formed(raw)
        if first not in {b"", b"["}:
            raise BadJson(f"the JSON is no object; {_WANTED}")
        return DEFAULT_TASK, b""
    try:
        request = decode_json(_request, raw)
    except msgspec.ValidationError as error:
        if decode_json(_open, raw).task is not UNSET:
            raise invalid_arguments(_unknown_members(raw, str(error))) from None
        return DEFAULT_TASK, b""
    return _parsed(request, raw)


def _parsed(request: _Request, raw: Buffer) -> tuple[str, Buffer]:
    if isinstance(request.task, UnsetType):
        return DEFAULT_TASK, b""
    mistakes: list[dict[str, str]] = []
    name = ""
    try:
        name = decode_json(_name, request.task)
    except msgspec.ValidationError:
        mistakes.append({"field": "task", "detail": "is no string"})
    args = b"" if isinstance(request.args, UnsetType) else memoryview(request.args)
    if args and bytes(args[:1]) != b"{":
        mistakes.append({"field": "args", "detail": "is no object"})
    if mistakes:
        raise invalid_arguments(mistakes)
    return name, args if isinstance(raw, memoryview) else bytes(args)


def _unknown_members(raw: Buffer, message: str) -> list[dict[str, str]]:
    """message: of the decoder, which names the first one."""
    if len(raw) <= _LISTED_BYTES:
        names = islice((name for name in decode_json(_members, raw) if name not in {"task", "args"}), _MOST_UNKNOWN)
    else:
        names = _UNKNOWN.findall(message)
    return [{"field": name[:100], "detail": "is no member of a request; task and args are"} for name in names]


def _first(raw: Buffer) -> bytes:
    """The first byte that is not space."""
    for start in range(0, len(raw), 4096):
        if piece := bytes(raw[start : start + 4096]).lstrip(_SPACE):
            return piece[:1]
    return b""
