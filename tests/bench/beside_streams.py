"""Works that ask what transforms cost those who ask for something small beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tests.bench.beside import BESIDE_COLUMNS, Beside
from tests.bench.files import file, full_size
from tests.bench.ground import Ground
from tests.bench.piped import transform_path
from tests.bench.targets import Target

_HEALTHY = b'{"status":"ok"}\n'


@dataclass(frozen=True, kw_only=True)
class BesideTransforms(Beside):
    """Each connection of the burden sends the file of ``kind`` through ``steps`` again and again."""

    kind: str
    steps: tuple[str, ...]
    burden: str = "transforming"
    connections: int = 4
    quick_connections: int = 4
    asked: str = "/healthz"

    def prepare(self, ground: Ground, *, quick: bool) -> None:
        file(ground, self.kind, full_size(quick=quick))

    def burden_of(self, ground: Ground, connections: int, *, quick: bool) -> tuple[str, Sequence[tuple[str, object]]]:
        source = file(ground, self.kind, full_size(quick=quick))
        return transform_path(self.steps), [("connections", connections), ("file", source.path)]


_P99 = Target("p99 of /healthz ÷ that without", "sluice-mysql", "p99_ratio", at_most=2)


def _beside(name: str, kind: str, step: str) -> BesideTransforms:
    return BesideTransforms(
        name=name,
        title=f"4 connections that send a file through {step}, and 10 connections that ask for /healthz beside them",
        kind=kind,
        steps=(step,),
        body=lambda _: _HEALTHY,
        peers=("sluice-mysql",),
        reference="sluice-mysql",
        rounds=3,
        factor=3,
        columns=BESIDE_COLUMNS,
        targets=(_P99,),
    )


BESIDE_UPPER = _beside("beside-upper", "ascii", "upper")
BESIDE_CSV = _beside("beside-csv", "csv", "csv-to-ndjson")
