"""Topics that are derived from others: what one event gives, along the way. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from app.live.events import Draft

type Derive = Callable[[bytes], bytes | None]
"""What an event's data becomes in a derived topic; None where it does not get there."""


class Derivations:
    """derived: of each derived topic, the one that it comes from, and how. There is no way back to where one began."""

    def __init__(self, derived: Mapping[str, tuple[str, Derive]]) -> None:
        self._sources = {name: source for name, (source, _) in derived.items()}
        self._from: dict[str, list[tuple[str, Derive]]] = {}
        for name, (source, derive) in derived.items():
            self._from.setdefault(source, []).append((name, derive))

    def source_of(self, name: str) -> str | None:
        return self._sources.get(name)

    def below(self, name: str) -> Iterator[str]:
        """All that is derived from it, along the way too."""
        for derived, _ in self._from.get(name, ()):
            yield derived
            yield from self.below(derived)

    def all_of(self, name: str, draft: Draft) -> Iterator[tuple[str, Draft]]:
        """What ``draft`` gives to other topics, when it is published to ``name``."""
        for derived, derive in self._from.get(name, ()):
            data = derive(draft.data)
            if data is not None:
                made = Draft(draft.type, data)
                yield derived, made
                yield from self.all_of(derived, made)
