"""The peers that there are, by name."""

from __future__ import annotations

from typing import Any

from tests.bench.node_peers import Express, ExpressPiscina, NodeHub
from tests.bench.others import FastApi, Granian, Nginx, StockHypercorn, StockQuart, Uvicorn
from tests.bench.own import (
    Sluice,
    SluiceAggregate,
    SluiceCompute,
    SluiceEmbedded,
    SluiceListing,
    SluiceQuiet,
    SluiceRaw,
    SluiceRoute,
)
from tests.bench.peer import Peer
from tests.bench.tools import CopyAndHash, Miller, NodePipeline, SluiceCommand
from tests.bench.traced import SluiceTraced

PEERS: dict[str, type[Peer[Any]]] = {
    kind.name: kind
    for kind in (
        Express,
        ExpressPiscina,
        NodeHub,
        FastApi,
        Uvicorn,
        Granian,
        StockHypercorn,
        StockQuart,
        Nginx,
        Sluice,
        SluiceEmbedded,
        SluiceRaw,
        SluiceRoute,
        SluiceListing,
        SluiceQuiet,
        SluiceCompute,
        SluiceAggregate,
        SluiceTraced,
        NodePipeline,
        Miller,
        CopyAndHash,
        SluiceCommand,
    )
}
