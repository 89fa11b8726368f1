"""The peers that there are, by name."""

from __future__ import annotations

from tests.bench.others import Express, FastApi, Granian, Nginx, StockHypercorn, StockQuart, Uvicorn
from tests.bench.own import Sluice, SluiceEmbedded, SluiceRaw, SluiceRoute
from tests.bench.peer import Peer

PEERS: dict[str, type[Peer]] = {
    kind.name: kind
    for kind in (
        Express,
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
    )
}
