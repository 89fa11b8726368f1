"""NDJSON records to test with: as texts, and what a step has to read in them."""

from __future__ import annotations

import json
from dataclasses import dataclass

from hypothesis import strategies as st

NAMES = ["a", "b", "c", "é", "x,y", 'q"\\']
VALUES = [
    *("1", "-0", "1.10", "1e400", "123456789012345678901234567890", "20", "3.5E+2", "true", "false", "null"),
    *('"a"', '"\\u0061"', '"é😀"', '"\\ud83d\\ude00"', '"20"', '"007"', '""', '"}],\\"{["', '"a\\nb"', '"c, d;"'),
    *("[1, {}]", '{"a":  [ "]" ,\t{}]}', "[]"),
]


@dataclass(frozen=True)
class Sample:
    """A record: its text, and the text of each member's value."""

    text: str
    members: dict[str, str]


@st.composite
def samples(draw: st.DrawFn, names: list[str] = NAMES, values: list[str] = VALUES) -> Sample:
    """Records with white space, with names in several spellings, and now and then twice."""
    members = draw(st.lists(st.tuples(st.sampled_from(names), st.sampled_from(values)), max_size=5))
    spaces = st.sampled_from(["", "", "", " ", "\t ", "\r"])
    written: list[str] = []
    for name, value in members:
        spelt = json.dumps(name, ensure_ascii=draw(st.booleans()))
        written.append(f"{draw(spaces)}{spelt}{draw(spaces)}:{draw(spaces)}{value}{draw(spaces)}")
    return Sample("{" + ",".join(written) + "}", dict(members))


@st.composite
def streams(draw: st.DrawFn, names: list[str] = NAMES, values: list[str] = VALUES) -> tuple[bytes, list[Sample]]:
    """NDJSON with blank lines, either line end, and at times no last one; and the records in it."""
    drawn = draw(st.lists(samples(names, values), max_size=7))
    text = ""
    for sample in drawn:
        text += draw(st.sampled_from(["", "", "\n", " \r\n"])) + draw(st.sampled_from(["", "", " "]))
        text += sample.text + draw(st.sampled_from(["\n", "\r\n", " \n"]))
    if draw(st.booleans()):
        text = text.removesuffix("\n")
    return text.encode(), drawn


def written(records: list[dict[str, str]]) -> bytes:
    """Records as NDJSON, from the texts of their members' values."""
    lines = [
        "{" + ",".join(f"{json.dumps(name, ensure_ascii=False)}:{value}" for name, value in record.items()) + "}\n"
        for record in records
    ]
    return "".join(lines).encode()


def unchanged(records: list[Sample]) -> bytes:
    return "".join(record.text + "\n" for record in records).encode()


def good_lines(data: bytes) -> tuple[list[bytes], bool]:
    """The lines of NDJSON up to the first that is no JSON object; and whether there is such a one."""
    lines: list[bytes] = []
    for line in data.split(b"\n"):
        text = line.strip(b" \t\r")
        if text and not is_object(text):
            return lines, True
        lines.extend([text] if text else [])
    return lines, False


def is_object(text: bytes) -> bool:
    """Whether this is a JSON object (RFC 8259) in UTF-8, without halves of surrogate pairs."""
    try:
        value = json.loads(text.decode(), parse_constant=_refuse)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict)


def _refuse(constant: str) -> object:
    raise ValueError(constant)
