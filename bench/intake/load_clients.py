"""Clients that POST one request after the other, each on a connection of its own, from one process of theirs.

`python -m bench.intake.load_clients PORT CLIENTS SECONDS [keyed]` reads the stores' names and keys, a line each, and prints
what was seen as JSON. Requests are bytes made beforehand, and of an answer only its status and length are read: the
same, and little, for whoever is asked.
"""

import asyncio
import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from statistics import quantiles
from typing import cast

import orjson
import uvloop

PATH = "/api/blog-generation"
_BODY = orjson.dumps(
    {
        "sourceType": "keyword",
        "sourceId": "green-tea",
        "title": "How to brew green tea at home",
        "keywords": ["tea", "brewing"],
    }
)
_WARM_S = 1.5


@dataclass(slots=True)
class LoadTally:
    """Of the answers in a window: their statuses, and how many milliseconds each took."""

    asked: int = 0
    """Before the window, too."""
    statuses: Counter[int] = field(default_factory=Counter)
    took_ms: list[float] = field(default_factory=list)


class LoadClient(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(
        self, head: bytes, tally: LoadTally, window: tuple[float, float], keys: str | None
    ) -> None:
        self._head = head
        self._tally = tally
        self._since, self._until = window
        self._keys = keys
        self._asked = 0
        self._asked_at = 0.0
        self._answer = b""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._ask()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, blank, body = self._answer.partition(b"\r\n\r\n")
        if not blank or len(body) < _length(head):
            return
        self._answer, now = b"", time.perf_counter()
        if self._since <= now < self._until:
            self._tally.statuses[int(head[9:12])] += 1
            self._tally.took_ms.append((now - self._asked_at) * 1_000)
        if now < self._until:
            self._ask()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def _ask(self) -> None:
        self._asked += 1
        self._tally.asked += 1
        key = (
            b""
            if self._keys is None
            else f"Idempotency-Key: {self._keys}-{self._asked}\r\n".encode()
        )
        self._asked_at = time.perf_counter()
        self._transport.write(b"%b%b\r\n%b" % (self._head, key, _BODY))


def _as_it_is(client: LoadClient) -> LoadClient:
    return client


def _length(head: bytes) -> int:
    _, _, after = head.lower().partition(b"\r\ncontent-length:")
    return int(after.partition(b"\r\n")[0])


async def run_clients(
    port: int, clients: int, seconds: float, stores: Sequence[str], *, keyed: bool
) -> LoadTally:
    """What so many clients, those of one store after those of another, see in so many seconds after the first."""
    loop = asyncio.get_running_loop()
    began = time.perf_counter() + _WARM_S
    tally, ends = LoadTally(), []
    for number in range(clients):
        store, key = stores[number % len(stores)].split()
        keys = f"{time.time_ns()}-{number}" if keyed else None
        client = LoadClient(_head(port, store, key), tally, (began, began + seconds), keys)
        await loop.create_connection(partial(_as_it_is, client), "127.0.0.1", port)
        ends.append(client.lost)
    async with asyncio.timeout(_WARM_S + seconds + 30):
        await asyncio.gather(*ends)
    return tally


def _head(port: int, store: str, key: str) -> bytes:
    """`X-Store` is for who believes it."""
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\nX-Store: {store}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n"
    ).encode()


def main() -> None:
    port, clients, seconds, *keyed = sys.argv[1:]
    stores = sys.stdin.read().splitlines()
    tally = uvloop.run(
        run_clients(int(port), int(clients), float(seconds), stores, keyed=bool(keyed))
    )
    seen = {
        "asked": tally.asked,
        "statuses": tally.statuses,
        "p99Ms": quantiles(tally.took_ms, n=100)[98],
    }
    print(orjson.dumps(seen, option=orjson.OPT_NON_STR_KEYS).decode())


if __name__ == "__main__":
    main()
