"""``Content-Digest`` and ``Repr-Digest``."""

from __future__ import annotations

import base64
from hashlib import sha256, sha512

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.errors import BadRequest
from app.http.digests import sha256_of

_DIGEST = sha256(b"x").digest()
_SHA256 = f"sha-256=:{base64.b64encode(_DIGEST).decode()}:"
_SHA512 = f"sha-512=:{base64.b64encode(sha512(b'x').digest()).decode()}:"


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        (_SHA256, _DIGEST),
        (f"  {_SHA256}  ", _DIGEST),
        (f"{_SHA256[:-2]}:", _DIGEST),  # without its padding
        (f"{_SHA512}, {_SHA256}", _DIGEST),
        (f"{_SHA512} ,\t{_SHA256};q=1", _DIGEST),
        (f'{_SHA256}; a; b="c,;\\"d";e=?0;f=-1.5;g=tok/en;h=:AA==:, md5=:AAAA:', _DIGEST),
        (f"sha-256=:{'A' * 43}=:, {_SHA256}", _DIGEST),
        (_SHA512, None),
        ("md5=:AAAA:", None),
        ("unixsum=::", None),
        ("", None),
        ("   ", None),
    ],
)
def test_the_sha256_is_found_among_the_digests(field: str, expected: bytes | None) -> None:
    assert sha256_of("Content-Digest", field) == expected


@pytest.mark.parametrize(
    "field",
    [
        "sha-256",
        "sha-256=",
        "sha-256=abc",
        'sha-256="abc"',
        "sha-256=:abc",
        "sha-256=:a b:",
        "sha-256=:A:",
        "sha-256=:AAAA:",
        f"sha-256=:{'A' * 44}:",
        f"{_SHA256},",
        f",{_SHA256}",
        f"{_SHA256},,{_SHA256}",
        f"{_SHA256} {_SHA256}",
        f"{_SHA256};",
        f"{_SHA256};A=1",
        f"\t{_SHA256}",
        _SHA256.replace("sha", "SHA"),
        _SHA256.replace("sha-256=", "sha-256 ="),
        "sha-256=:é:",
        "md5=1",
    ],
)
def test_what_is_no_list_of_digests_is_refused(field: str) -> None:
    with pytest.raises(BadRequest) as raised:
        sha256_of("Content-Digest", field)
    assert raised.value.detail.startswith("Content-Digest: ")


_names = st.sampled_from(["sha-256", "sha-512", "md5", "*x", "a.b_c-d"])
_members = st.lists(st.tuples(_names, st.binary(min_size=32, max_size=32)), min_size=1, max_size=6)


@given(_members)
@settings(max_examples=100, deadline=None)
def test_the_last_of_several_counts_and_the_others_do_not_matter(members: list[tuple[str, bytes]]) -> None:
    field = ", ".join(f"{name}=:{base64.b64encode(digest).decode()}:" for name, digest in members)
    assert sha256_of("Repr-Digest", field) == dict(members).get("sha-256")


@given(st.text(alphabet='sha-256=:;, "\\?A*', max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_text_is_understood_or_refused(field: str) -> None:
    try:
        found = sha256_of("Content-Digest", field)
    except BadRequest:
        return
    assert found is None or len(found) == 32
