"""JSON as RFC 8259 has it, decoded by msgspec, and what is wrong with it in words for whoever sent it."""

from __future__ import annotations

import codecs
import re

import msgspec

from app.errors import BadJson

type Buffer = bytes | memoryview

_PIECE = 1024 * 1024
_MALFORMED = re.compile(r"JSON is malformed: (?P<reason>.*) \(byte (?P<offset>[0-9]+)\)")
_TRAILING = "trailing characters"
_ENDS_TOO_EARLY = "Input data was truncated"
# So many bytes behind half of a surrogate pair, and msgspec says that rather than that the text ends too early.
_ROOM_FOR_A_SURROGATE = b" " * 12


def decode_json[T](decoder: msgspec.json.Decoder[T], raw: Buffer) -> T:
    """What ``decoder`` makes of ``raw``.

    *Errors*: BadJson, with the byte's offset in words and as the member ``offset``, where it is no JSON in UTF-8 or too
    deep; msgspec.ValidationError where it is JSON, but not what the decoder is for.
    """
    _check_utf8(raw)
    try:
        return decoder.decode(raw)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError as error:
        raise _bad_json(decoder, raw, str(error)) from None
    except RecursionError:
        raise BadJson("the JSON is nested too deeply") from None


def well_formed(raw: Buffer) -> msgspec.Raw:
    """``raw`` itself, without a Python object for what is in it. *Errors*: BadJson."""
    return decode_json(_ANYTHING, raw)


_ANYTHING = msgspec.json.Decoder(msgspec.Raw)


def _check_utf8(raw: Buffer) -> None:
    """msgspec does not look into texts that it passes over."""
    if isinstance(raw, bytes) and raw.isascii():
        return
    view = memoryview(raw)
    decoder = codecs.getincrementaldecoder("utf-8")()
    for start in range(0, len(view), _PIECE):
        held = len(decoder.getstate()[0])
        try:
            decoder.decode(view[start : start + _PIECE], final=start + _PIECE >= len(view))
        except UnicodeDecodeError as error:
            raise _malformed("no UTF-8", start - held + error.start) from None


def _bad_json[T](decoder: msgspec.json.Decoder[T], raw: Buffer, message: str) -> BadJson:
    if message == _ENDS_TOO_EARLY:
        try:
            decoder.decode(bytes(raw) + _ROOM_FOR_A_SURROGATE)
        except msgspec.DecodeError as error:
            message = str(error)
    if match := _MALFORMED.fullmatch(message):
        # Of what follows the end, msgspec tells the second byte.
        return _malformed(match["reason"], int(match["offset"]) - (match["reason"] == _TRAILING))
    return _malformed("it ends too early", len(raw))


def _malformed(reason: str, offset: int) -> BadJson:
    return BadJson(f"the JSON is malformed at byte {offset}: {reason}", members={"offset": offset})
