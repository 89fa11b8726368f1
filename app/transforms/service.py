"""Plans, run: each group of steps is a stage of a pipeline, in the place where it does not hold up the event loop."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, aclosing, asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from typing import Protocol

import trio

from app.errors import ExpansionTooLarge, UnsupportedContentEncoding
from app.flow.channels import Reader, Writer
from app.flow.pipelines import Stage, closing_source, open_pipeline
from app.flow.processes import ProcessPool, open_processes, spare_cpus
from app.flow.spans import NOTHING, Nothing, Span, current, span
from app.flow.threads import ThreadPool
from app.settings import Settings
from app.transforms.chain import feed, finish, is_done
from app.transforms.compression import decoder
from app.transforms.decompression import FREE_EXPANSION_BYTES
from app.transforms.digests import Sha256
from app.transforms.in_processes import InProcesses
from app.transforms.pieces import SLICE_BYTES, cut
from app.transforms.plan import MOST_CODINGS, Content, Plan, make_plan
from app.transforms.registry import steps_by_name
from app.transforms.step import Place, Step, Transformer
from app.transforms.turns import Progress

# What is worked on in one go, in a thread.
_THREAD_BYTES = 128 * 1024
# Of what a thread gives, in pieces of `PIECE_BYTES`, before they are passed on.
_THREAD_PIECES = 4
# An answer begins when this much of it is there, or all, or when its source keeps us waiting for this long: until then
# an error can still be told. It begins anyhow this long after the first of it, or after as long without any.
_HELD_BYTES = 64 * 1024
_HELD_SECONDS = 0.05
_LONGEST_HELD_SECONDS = 0.5
# What undoes a body's Content-Encoding is told as.
_DECODING = "content-encoding"


@asynccontextmanager
async def open_transforms(settings: Settings) -> AsyncGenerator[Transforms]:
    """All the steps, and the threads and processes that they run in."""
    size = settings.compute.workers or spare_cpus()
    async with open_processes("transforms", size) as processes:
        most = settings.transforms.max_expansion
        yield Transforms(steps_by_name(most), ThreadPool("transforms", settings.threads.io), processes, most)


@dataclass
class Outcome:
    """What is known of a run at its end. taken, given: bytes so far. digests: of its ``sha256`` steps, in order."""

    taken: int = 0
    given: int = 0
    sha256: bytes | None = None
    digests: Sequence[bytes] = ()


@dataclass
class Part:
    """Transformers that run side by side in one place, the names of their steps, and the bytes that each has given."""

    place: Place
    chain: Sequence[Transformer]
    names: Sequence[str]

    def __post_init__(self) -> None:
        self.given = [0] * len(self.chain)


class Hash(Protocol):
    def update(self, data: bytes, /) -> None: ...


class Transforms:
    """Steps, and the places where they run.

    registry: steps by name. threads: for libraries that release the interpreter's lock. processes: for steps that
    are Python. max_expansion: see `app.transforms.compression`.
    """

    def __init__(
        self, registry: Mapping[str, Step], threads: ThreadPool, processes: ProcessPool, max_expansion: float
    ) -> None:
        self.registry = registry
        self._threads = threads
        self._processes = processes
        self._max_expansion = max_expansion
        self._running: dict[int, Sequence[Part]] = {}
        self._given: Counter[str] = Counter()

    def given(self) -> Mapping[str, int]:
        """Bytes that steps have given, by their names."""
        given = self._given.copy()
        for parts in self._running.values():
            _add_given(parts, given)
        return given

    def plan(self, asked: Sequence[str], content: Content) -> Plan:
        """*Errors*: BadStep."""
        return make_plan(self.registry, asked, content)

    def decoders(self, codings: Sequence[str]) -> list[Transformer]:
        """What undoes ``codings``, which were applied in that order. *Errors*: UnsupportedContentEncoding."""
        decoders: list[Transformer] = []
        if len(codings) > MOST_CODINGS:
            raise UnsupportedContentEncoding(f"the body has more than {MOST_CODINGS} codings")
        for coding in reversed(codings):
            name = coding.strip()
            if (made := decoder(name, self._max_expansion)) is not None:
                decoders.append(made)
            elif name.lower() != "identity":
                raise UnsupportedContentEncoding(
                    f"the body's Content-Encoding {name!r} is neither gzip nor zstd",
                    headers={"accept-encoding": "gzip, zstd"},
                )
        return decoders

    @asynccontextmanager
    async def run(
        self,
        source: AsyncIterable[bytes],
        plan: Plan,
        outcome: Outcome | None = None,
        *,
        decoders: Sequence[Transformer] = (),
        digest: bool = False,
        at_once: int = SLICE_BYTES,
    ) -> AsyncGenerator[AsyncIterator[bytes]]:
        """What ``plan`` makes of ``source``, as it comes, for as long as the block lasts.

        decoders: what the source goes through first. digest: whether ``outcome.sha256`` is to be that of what is given.
        at_once: bytes that the event loop works on before others get their turn.

        Bound: a channel (`app.flow.channels.CHANNEL_BYTES`) between stages, what each step says that it holds, and a
        piece at each stage. *Cancellation*: leaving the block ends all of it. *Errors*: those of the source and the
        steps: Malformed, ExpansionTooLarge; also in the middle.
        """
        outcome = outcome or Outcome()
        watched = _Source(source, outcome)
        parts = [*(Part("thread", [one], [_DECODING]) for one in decoders), *_parts(plan)]
        allowance = Allowance(self._max_expansion, outcome)
        first: AsyncIterable[bytes] = watched
        # The task that waits for the source has time for what is quick; one channel less.
        at_source = parts[0].place == "loop"
        if at_source:
            on_loop = _first_on_loop if current() is not None else _on_loop
            first = on_loop(parts[0], allowance, watched, at_once)
        hashing = sha256() if digest else None
        with self._counting(parts), ExitStack() as opened:
            stages = [stage for part in parts[at_source:] for stage in self._stages(part, allowance, opened, at_once)]
            async with (
                closing_source(source),
                open_pipeline(first, *stages) as output,
                aclosing(_held_back(output, watched)) as held,
                aclosing(_counted(held, outcome, hashing)) as chunks,
            ):
                yield chunks
        outcome.sha256 = hashing.digest() if hashing else None
        steps = [one for part in parts for one in part.chain]
        outcome.digests = [one.digest for one in steps if isinstance(one, Sha256) and one.digest]

    @contextmanager
    def _counting(self, parts: Sequence[Part]) -> Generator[None]:
        self._running[id(parts)] = parts
        try:
            yield
        finally:
            del self._running[id(parts)]
            _add_given(parts, self._given)

    def _stages(self, part: Part, allowance: Allowance, opened: ExitStack, at_once: int) -> Sequence[Stage]:
        def told(stage: Stage) -> Stage:
            return partial(_told, part, stage)

        match part.place:
            case "loop":
                return [told(partial(_pass_on, part, allowance, at_once))]
            case "thread":
                return [told(partial(self._in_threads, part, allowance))]
            case "process":
                progress = Progress(part.chain, part.given, expansion=self._max_expansion)
                running = InProcesses(self._processes, progress, allowance.most, partial(_went, part, allowance))
                opened.enter_context(running.opened())
                return running.stages(told)

    async def _in_threads(self, part: Part, allowance: Allowance, reader: Reader, writer: Writer) -> None:
        chain, size = part.chain, 0
        while not is_done(chain) and (piece := await reader.take(_THREAD_BYTES)):
            size = await self._give(feed(chain, piece, part.given), size, allowance, writer)
        await self._give(finish(chain, part.given), size, allowance, writer)

    async def _give(self, pieces: Iterator[bytes], size: int, allowance: Allowance, writer: Writer) -> int:
        """``size``: what was given before; and what is by then."""
        more = True
        while more:
            given = await self._threads.run(lambda: list(islice(pieces, _THREAD_PIECES)))
            size += sum(map(len, given))
            allowance.check(size)
            for piece in given:
                await writer.send(piece)
            more = len(given) == _THREAD_PIECES
        return size


def _span_of(part: Part) -> Span | Nothing:
    if current() is None:
        return NOTHING
    return span(
        "stage", {"sluice.place": part.place, "sluice.steps": " ".join(type(one).__name__ for one in part.chain)}
    )


def _went(part: Part, allowance: Allowance, progress: Progress) -> None:
    part.given = progress.given
    allowance.check(progress.flowed)


async def _told(part: Part, stage: Stage, reader: Reader, writer: Writer) -> None:
    with _span_of(part):
        await stage(reader, writer)


@dataclass
class Allowance:
    """How much may come out of any stage, and flow within it: ``max_expansion`` times what came from the source, and
    `FREE_EXPANSION_BYTES` more. (A decompression's own bound is of what went into that: several would multiply.)"""

    max_expansion: float
    outcome: Outcome

    def most(self) -> float:
        return FREE_EXPANSION_BYTES + self.max_expansion * self.outcome.taken

    def check(self, size: int) -> None:
        """*Errors*: ExpansionTooLarge."""
        most = self.most()
        if size > most:
            raise ExpansionTooLarge(
                f"{self.outcome.taken} bytes become more than {most:.0f} on the way through the steps"
            )


def _parts(plan: Plan) -> list[Part]:
    names = iter([one.step.name for one in plan.chosen])
    return [Part(place, chain, [next(names) for _ in chain]) for place, chain in plan.groups()]


def _add_given(parts: Sequence[Part], to: Counter[str]) -> None:
    for part in parts:
        for name, size in zip(part.names, part.given, strict=True):
            to[name] += size


async def _on_loop(
    part: Part, allowance: Allowance, pieces: AsyncIterable[bytes], at_once: int
) -> AsyncGenerator[bytes]:
    chain, size = part.chain, 0
    async for piece in pieces:
        for slice_ in cut(piece, at_once):
            before = size
            for given in feed(chain, slice_, part.given):
                size += len(given)
                allowance.check(size)
                yield given  # and whoever takes it gives way
            if size == before:
                await trio.lowlevel.checkpoint()
        if is_done(chain):
            break
    for given in finish(chain, part.given):
        yield given


async def _first_on_loop(
    part: Part, allowance: Allowance, pieces: AsyncIterable[bytes], at_once: int
) -> AsyncGenerator[bytes]:
    stage = _span_of(part)
    error: BaseException | None = None
    try:
        async with aclosing(_on_loop(part, allowance, pieces, at_once)) as given:
            async for piece in given:
                yield piece
    except BaseException as raised:
        error = raised
        raise
    finally:
        stage.end(error)


async def _pass_on(part: Part, allowance: Allowance, at_once: int, reader: Reader, writer: Writer) -> None:
    async with aclosing(_on_loop(part, allowance, reader, at_once)) as pieces:
        async for piece in pieces:
            await writer.send(piece)


class _Source(AsyncIterator[bytes]):
    """Counts what comes, and tells for how long nothing has."""

    def __init__(self, chunks: AsyncIterable[bytes], outcome: Outcome) -> None:
        self._iterator = aiter(chunks)
        self._outcome = outcome
        self._waits_since = math.inf
        self._gives_since = math.inf

    async def __anext__(self) -> bytes:
        self._waits_since = trio.current_time()
        try:
            chunk = await anext(self._iterator)
        finally:
            self._waits_since = math.inf
        self._outcome.taken += len(chunk)
        if self._outcome.taken >= _HELD_BYTES:
            self._gives_since = min(self._gives_since, trio.current_time())
        return chunk

    def keeps_waiting(self) -> bool:
        return trio.current_time() - self._waits_since >= _HELD_SECONDS

    def has_given_long(self) -> bool:
        """Whether it has given much, and not just now."""
        return trio.current_time() - self._gives_since >= _LONGEST_HELD_SECONDS


async def _held_back(chunks: AsyncIterator[bytes], source: _Source) -> AsyncGenerator[bytes]:
    """``chunks``, the first of them together, once enough is there, or all, or somebody waits for what there is.

    Where nothing comes out of much, an empty one comes first: what can be told by then is that it goes on.
    """
    held: list[bytes] = []
    size = 0
    ended = False
    begun = math.inf
    while not ended and size < _HELD_BYTES:
        if held and (source.keeps_waiting() or trio.current_time() >= begun + _LONGEST_HELD_SECONDS):
            break
        if not held and source.has_given_long():
            yield b""
            break
        with trio.move_on_after(_HELD_SECONDS):
            chunk = await anext(chunks, None)
            begun = min(begun, trio.current_time())
            ended = chunk is None
            held.append(chunk or b"")
            size += len(held[-1])
    if size:
        yield b"".join(held)
    async for chunk in chunks:
        yield chunk


async def _counted(chunks: AsyncIterator[bytes], outcome: Outcome, hashing: Hash | None) -> AsyncGenerator[bytes]:
    async for chunk in chunks:
        outcome.given += len(chunk)
        if hashing is not None:
            hashing.update(chunk)
        yield chunk
