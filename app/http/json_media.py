"""Whether a request's body is JSON, as far as its fields say so."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from app.errors import UnsupportedContentEncoding, UnsupportedMediaType

_IS_JSON = re.compile(r"application/json|[^/\s,]+/[^/\s,]+\+json")
_CHARSETS = {"utf-8", "utf8", "us-ascii"}


def check_json_media(fields: Mapping[str, str], what: str) -> bool:
    """Whether the body of ``what`` says that it is JSON; False where it says nothing. fields: by name in lower case.

    *Errors*: UnsupportedMediaType, UnsupportedContentEncoding where it says that it is not JSON as it stands.
    """
    if fields.get("content-encoding", "identity").strip().lower() != "identity":
        raise UnsupportedContentEncoding(
            f"{what} comes without Content-Encoding", headers={"accept-encoding": "identity"}
        )
    said = fields.get("content-type")
    if said is None:
        return False
    if not _is_json(said):
        raise not_json(f"is {said!r}")
    return True


def not_json(what: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(
        f"Content-Type: {what}, and must be application/json, in UTF-8", headers={"accept": "application/json"}
    )


@lru_cache(maxsize=64)
def _is_json(said: str) -> bool:
    essence, *parameters = (part.strip().lower() for part in said.split(";"))
    charsets = {value.strip(' "') for name, _, value in (one.partition("=") for one in parameters) if name == "charset"}
    return bool(_IS_JSON.fullmatch(essence)) and charsets <= _CHARSETS
