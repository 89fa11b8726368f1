"""What a user id may be."""

from __future__ import annotations

import re
from functools import lru_cache

from app.errors import BadUserId

_USER_ID = re.compile(r"[A-Za-z0-9._@-]{1,128}")


# The same ones again and again.
@lru_cache(maxsize=1024)
def check_user_id(user_id: str) -> str:
    """*Errors*: BadUserId unless it is 1–128 of ``[A-Za-z0-9._@-]``, and neither ``.`` nor ``..``."""
    if not _USER_ID.fullmatch(user_id) or user_id in {".", ".."}:
        shown = user_id if len(user_id) <= 40 else f"{user_id[:40]}…"
        raise BadUserId(f"user id {shown!r}: allowed are 1 to 128 of A-Z a-z 0-9 . _ @ -, but not '.' or '..'")
    return user_id
