"""The options that the CSV steps take: ``delimiter=CHARACTER`` and ``infer``."""

from __future__ import annotations

from dataclasses import dataclass

from app.transforms.step import BadArguments

_WORDS = {"comma": ",", "semicolon": ";", "tab": "\t", "pipe": "|"}


@dataclass(frozen=True)
class CsvOptions:
    """delimiter: one ASCII character. infer: whether texts that are JSON values become these."""

    delimiter: str = ","
    infer: bool = False


def csv_options(arguments: str | None, *, may_infer: bool) -> CsvOptions:
    """The options in ``arguments``, which are separated by commas; each at most once.

    *Errors*: BadArguments.
    """
    given: dict[str, str] = {}
    for option in [] if arguments is None else arguments.split(","):
        name, equals, value = option.partition("=")
        known = (name == "delimiter" and equals) or (name == "infer" and may_infer and not equals)
        if not known or name in given:
            allowed = "delimiter=CHARACTER and infer" if may_infer else "delimiter=CHARACTER"
            raise BadArguments(f"{option!r} is not an option here: {allowed} are, each once, separated by commas")
        given[name] = value
    return CsvOptions(_delimiter(given.get("delimiter", "comma")), "infer" in given)


def _delimiter(value: str) -> str:
    character = _WORDS.get(value, value)
    if len(character) == 1 and character != '"' and (character == "\t" or " " <= character <= "~"):
        return character
    raise BadArguments(
        f"{value!r} is not a delimiter: one printable ASCII character but the quote, or {', '.join(_WORDS)}"
    )
