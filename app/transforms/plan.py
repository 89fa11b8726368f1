"""Which steps run, in which order, and whether each can read what the one before it gives. No Trio."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from app.errors import BadRequest
from app.transforms.step import BadArguments, Kind, Place, Step, Transformer

MOST_STEPS = 16
MOST_CODINGS = 4
"""Steps that compress or undo it: each may hold a window of some MiB."""

_KINDS = {
    "text/csv": Kind.CSV,
    "application/x-ndjson": Kind.NDJSON,
    "application/ndjson": Kind.NDJSON,
    "application/jsonl": Kind.NDJSON,
    "application/x-jsonlines": Kind.NDJSON,
    "application/json": Kind.JSON,
    "application/gzip": Kind.GZIP,
    "application/x-gzip": Kind.GZIP,
    "application/zstd": Kind.ZSTD,
}
_MEDIA_TYPES = {
    Kind.BYTES: "application/octet-stream",
    Kind.TEXT: "text/plain; charset=utf-8",
    Kind.CSV: "text/csv; charset=utf-8",
    Kind.NDJSON: "application/x-ndjson",
    Kind.JSON: "application/json",
    Kind.GZIP: "application/gzip",
    Kind.ZSTD: "application/zstd",
}
_SUFFIXES = {"csv": Kind.CSV, "ndjson": Kind.NDJSON, "jsonl": Kind.NDJSON, "json": Kind.JSON}
_CODINGS = {Kind.GZIP: "gzip", Kind.ZSTD: "zstd"}
_UNDONE = {"gunzip", "unzstd"}


class BadStep(BadRequest):
    """A step that there is not, arguments that it does not take, or a place where it cannot stand."""

    name, title = "bad-step", "Bad step"


@dataclass(frozen=True)
class Content:
    """What bytes are: their kind (None: nobody says), their media type, and the codings around them, outermost last."""

    kind: Kind | None
    media_type: str
    codings: tuple[tuple[str, Content], ...] = ()

    @classmethod
    def of(cls, media_type: str | None) -> Content:
        """Of a body that is said to be ``media_type``. Only what is certain counts: many clients say anything."""
        kind = _KINDS.get((media_type or "").partition(";")[0].strip().lower())
        return cls(kind, media_type or _MEDIA_TYPES[Kind.BYTES])

    @classmethod
    def stored(cls, media_type: str) -> Content:
        """Of a report, whose media type is what it is."""
        essence = media_type.partition(";")[0].strip().lower()
        return cls(_KINDS.get(essence, Kind.TEXT if essence.startswith("text/") else Kind.BYTES), media_type)

    @classmethod
    def named(cls, file: str) -> Content:
        """Of a file, as far as its name says so: that of ``x.ndjson.gz`` says what is compressed too."""
        name = file.lower()
        for suffix, coding in ((".gz", Kind.GZIP), (".zst", Kind.ZSTD)):
            if name.endswith(suffix):
                inner = cls.named(name.removesuffix(suffix))
                return cls(coding, inner.media_type, ((_CODINGS[coding], inner),))
        kind = _SUFFIXES.get(name.rpartition(".")[2])
        return cls(kind, _MEDIA_TYPES[kind or Kind.BYTES])

    def after(self, step: Step) -> Content:
        """What ``step`` makes of it."""
        if step.gives is None:
            return self
        if step.gives in _CODINGS:
            return replace(self, kind=step.gives, codings=(*self.codings, (_CODINGS[step.gives], self)))
        if step.name in _UNDONE and self.codings:
            return self.codings[-1][1]
        return Content(step.gives, _MEDIA_TYPES[step.gives])

    @property
    def coding(self) -> str | None:
        """The value of ``Content-Encoding`` (RFC 9110 8.4): in the order in which they were applied."""
        return ", ".join(coding for coding, _ in self.codings) or None


@dataclass(frozen=True)
class Chosen:
    """A step, and the arguments it is to have."""

    step: Step
    arguments: str | None

    def make(self) -> Transformer:
        return self.step.make(self.arguments)


@dataclass(frozen=True)
class Plan:
    """Steps in order; what they give."""

    chosen: Sequence[Chosen]
    gives: Content

    def groups(self) -> list[tuple[Place, list[Transformer]]]:
        """New transformers, those that run side by side in one place together; of those in threads each for itself, so
        that what one gives is seen before the next takes it."""
        groups: list[tuple[Place, list[Transformer]]] = []
        for chosen in self.chosen:
            if not groups or groups[-1][0] != chosen.step.place or chosen.step.place == "thread":
                groups.append((chosen.step.place, []))
            groups[-1][1].append(chosen.make())
        return groups


def make_plan(registry: Mapping[str, Step], asked: Sequence[str], content: Content) -> Plan:
    """The plan of the steps ``asked`` for, each ``NAME`` or ``NAME:ARGUMENTS``, over ``content``.

    *Errors*: BadStep, which says which step wants what.
    """
    if not asked:
        raise BadStep("there is no step; GET /api/transform/steps lists those that there are")
    if len(asked) > MOST_STEPS:
        raise BadStep(f"there are {len(asked)} steps; at most {MOST_STEPS} are taken")
    chosen = [_choose(registry, text, number) for number, text in enumerate(asked, 1)]
    if sum(one.step.place == "thread" for one in chosen) > MOST_CODINGS:
        raise BadStep(f"at most {MOST_CODINGS} steps may compress or decompress")
    before = "the body"
    for number, one in enumerate(chosen, 1):
        if content.kind is not None and content.kind not in one.step.takes:
            raise BadStep(
                f"step {number}, {one.step.name}, wants {_listed(one.step.takes)}; {before} gives {content.kind}",
                members={"step": number},
            )
        content = content.after(one.step)
        before = f"step {number}, {one.step.name},"
    return Plan(chosen, content)


def _choose(registry: Mapping[str, Step], text: str, number: int) -> Chosen:
    name, colon, rest = text.partition(":")
    step = registry.get(name.strip())
    if step is None:
        raise BadStep(
            f"step {number}, {name!r}, is none of {', '.join(sorted(registry))}",
            members={"step": number},
        )
    arguments = rest if colon else None
    try:
        step.make(arguments)
    except BadArguments as error:
        raise BadStep(f"step {number}, {step.name}: {error}", members={"step": number}) from error
    return Chosen(step, arguments)


def _listed(kinds: frozenset[Kind]) -> str:
    return " or ".join(kind for kind in Kind if kind in kinds)
