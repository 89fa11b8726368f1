"""Works that ask what transforms cost those who ask for something small beside them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tests.bench.beside import BESIDE_COLUMNS, BesidePosts
from tests.bench.files import file, full_size
from tests.bench.ground import Ground
from tests.bench.piped import transform_path
from tests.bench.targets import Target


@dataclass(frozen=True, kw_only=True)
class BesideTransforms(BesidePosts):
    """The file of ``kind`` goes through ``steps``."""

    kind: str
    steps: tuple[str, ...]

    def posted(self, ground: Ground, *, quick: bool) -> tuple[str, Path, str]:
        return transform_path(self.steps), file(ground, self.kind, full_size(quick=quick)).path, ""


_P99 = Target("p99 of /healthz ÷ that without", "sluice-mysql", "p99_ratio", at_most=2)


def _beside(name: str, kind: str, step: str) -> BesideTransforms:
    return BesideTransforms(
        name=name,
        title=f"4 connections that send a file through {step}, and 10 connections that ask for /healthz beside them",
        kind=kind,
        steps=(step,),
        peers=("sluice-mysql",),
        reference="sluice-mysql",
        rounds=3,
        factor=3,
        columns=BESIDE_COLUMNS,
        targets=(_P99,),
    )


BESIDE_UPPER = _beside("beside-upper", "ascii", "upper")
BESIDE_CSV = _beside("beside-csv", "csv", "csv-to-ndjson")
