"""The fields of a request, as routes look at them."""

from __future__ import annotations

from collections.abc import Collection, Iterable


def fields_of(raw: Iterable[tuple[bytes, bytes]], wanted: Collection[bytes]) -> dict[str, str]:
    """The values of those of ``wanted``, in lower case, that there are, by name; several of one name joined by a comma
    (RFC 9110 5.3)."""
    fields: dict[str, str] = {}
    for raw_name, raw_value in raw:
        if raw_name in wanted:
            name, value = raw_name.decode(), raw_value.decode("latin-1")
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields
