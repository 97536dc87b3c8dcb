"""Clients in one process that POST requests without pause, each on its own connection.

`python -m bench.intake.load_clients PORT CLIENTS SECONDS [keyed]` reads one store name and key per
line from stdin and prints its counts as JSON. The request bytes are prepared in advance, and only
the status and the length of an answer are read: the cost of the clients is small and constant.
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
    """The statuses and durations (in milliseconds) of the answers in the measured window."""

    sent: int = 0
    """All requests, including those before the window."""
    statuses: Counter[int] = field(default_factory=Counter)
    durations_ms: list[float] = field(default_factory=list)


class LoadClient(asyncio.Protocol):
    """Sends the next request as soon as the answer to the last one is complete."""

    def __init__(
        self, head: bytes, tally: LoadTally, window: tuple[float, float], keys: str | None
    ) -> None:
        self._head = head
        self._tally = tally
        self._since, self._until = window
        self._keys = keys
        self._sent = 0
        self._sent_at = 0.0
        self._answer = b""
        self.lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._send_request()

    def data_received(self, data: bytes) -> None:
        self._answer += data
        head, blank, body = self._answer.partition(b"\r\n\r\n")
        if not blank or len(body) < _content_length(head):
            return
        self._answer, now = b"", time.perf_counter()
        if self._since <= now < self._until:
            self._tally.statuses[int(head[9:12])] += 1
            self._tally.durations_ms.append((now - self._sent_at) * 1_000)
        if now < self._until:
            self._send_request()
        else:
            self._transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)

    def _send_request(self) -> None:
        self._sent += 1
        self._tally.sent += 1
        key = (
            b""
            if self._keys is None
            else f"Idempotency-Key: {self._keys}-{self._sent}\r\n".encode()
        )
        self._sent_at = time.perf_counter()
        self._transport.write(b"%b%b\r\n%b" % (self._head, key, _BODY))


def _protocol_of(client: LoadClient) -> LoadClient:
    return client


def _content_length(head: bytes) -> int:
    _, _, after = head.lower().partition(b"\r\ncontent-length:")
    return int(after.partition(b"\r\n")[0])


async def run_clients(
    port: int, clients: int, seconds: float, stores: Sequence[str], *, keyed: bool
) -> LoadTally:
    """Run the clients, distributed over the stores, and return the tally of `seconds`.

    The window starts after a warm-up.
    """
    loop = asyncio.get_running_loop()
    began = time.perf_counter() + _WARM_S
    tally, closed = LoadTally(), []
    for number in range(clients):
        store, key = stores[number % len(stores)].split()
        keys = f"{time.time_ns()}-{number}" if keyed else None
        client = LoadClient(_request_head(port, store, key), tally, (began, began + seconds), keys)
        await loop.create_connection(partial(_protocol_of, client), "127.0.0.1", port)
        closed.append(client.lost)
    async with asyncio.timeout(_WARM_S + seconds + 30):
        await asyncio.gather(*closed)
    return tally


def _request_head(port: int, store: str, key: str) -> bytes:
    """Return the head of every request. `X-Store` is for apps without authentication."""
    return (
        f"POST {PATH} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
        f"Authorization: Bearer {key}\r\nX-Store: {store}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(_BODY)}\r\n"
    ).encode()


def main() -> None:
    port, clients, seconds, *keyed = sys.argv[1:]
    stores = sys.stdin.read().splitlines()
    tally = uvloop.run(
        run_clients(int(port), int(clients), float(seconds), stores, keyed=bool(keyed))
    )
    counts = {
        "sent": tally.sent,
        "statuses": tally.statuses,
        "p99Ms": quantiles(tally.durations_ms, n=100)[98],
    }
    print(orjson.dumps(counts, option=orjson.OPT_NON_STR_KEYS).decode())


if __name__ == "__main__":
    main()
