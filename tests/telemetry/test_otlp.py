"""Spans as OTLP has them: those of our encoder against the SDK's."""

from __future__ import annotations

from typing import Any, cast

from hypothesis import given, settings
from hypothesis import strategies as st
from opentelemetry.exporter.otlp.proto.common.trace_encoder import encode_spans
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.sdk.resources import Resource

from app.flow.spans import Span, Tree
from app.telemetry.otlp import encode_batch
from app.telemetry.span_exports import _encoded, readable, resource

_RESOURCE = resource(Resource.create())
_64_BITS = st.integers(1, 2**64 - 1)
_values = st.one_of(
    st.text(st.characters(codec="utf-8"), max_size=300),
    st.booleans(),
    st.integers(-(2**63), 2**63 - 1),
    st.sampled_from([0, 1, 1.0, True, "1", 127, 128]),  # which are the same to some
    st.floats(allow_nan=False),
)
_names = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200)


_told = st.fixed_dictionaries(
    {
        "trace_id": st.integers(1, 2**128 - 1),
        "state": st.sampled_from([b"", b"a=1", b"vendor@other=t61rcWkgMzE,rojo=00f067aa0ba902b7"]),
        "name": _names,
        "parent": st.none() | _64_BITS,
        "kind": st.sampled_from(["internal", "server", "client", "producer"]),
        "attributes": st.dictionaries(_names, _values, max_size=5),
        "id": _64_BITS,
        "began": _64_BITS,
        "ended": _64_BITS,
        "is_error": st.booleans(),
    }
)


def made(told: dict[str, Any]) -> Span:
    tree = Tree(told.pop("trace_id"), cast("Any", None))
    tree.state = told.pop("state")
    span = Span(tree, told["name"], told["parent"], told["kind"], told["attributes"])
    for name, value in told.items():
        setattr(span, name, value)
    return span


@given(st.lists(_told, min_size=1, max_size=3))
@settings(max_examples=150, deadline=None)
def test_what_is_encoded_is_what_the_sdk_would_encode(told: list[dict[str, Any]]) -> None:
    spans = [made(one) for one in told]
    ours = ExportTraceServiceRequest.FromString(encode_batch(*_encoded(_RESOURCE), spans))
    assert ours == encode_spans([readable(span, _RESOURCE) for span in spans])


def test_what_is_no_text_is_told_all_the_same() -> None:
    span = Span(Tree(1, cast("Any", None)), "a\udcff", None, "internal", {"b": "\udcff"})
    found = ExportTraceServiceRequest.FromString(encode_batch(*_encoded(_RESOURCE), [span]))
    assert found.resource_spans[0].scope_spans[0].spans[0].name == "a?"
