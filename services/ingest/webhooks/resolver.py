"""Resolves host names in threads of its own.

The system's resolver blocks for as long as the host's name server delays, even after the caller has
given up. Such a lookup must not occupy the event loop's few shared threads. So each store has its
own threads here, as many as its concurrent webhooks, and no thread delays the process's exit.
"""

import asyncio
import socket
import threading
from collections import Counter
from contextlib import suppress

_MAX_LOOKUPS = 200
_MAX_LOOKUPS_PER_STORE = 4
_DEADLINE_S = 5.0


class HostResolver:
    """Counts an abandoned lookup until its thread ends, so a store cannot pile lookups up."""

    def __init__(self) -> None:
        self._lookups = Counter[str]()

    async def resolve(self, store: str, host: str, port: int) -> list[str]:
        """Return the addresses of a host, looked up for a store.

        Raises OSError when the host has none, and TimeoutError when the lookup takes too long.
        """
        if self._lookups[store] >= _MAX_LOOKUPS_PER_STORE or self._lookups.total() >= _MAX_LOOKUPS:
            raise TimeoutError("earlier lookups have not ended yet")
        async with asyncio.timeout(_DEADLINE_S):
            return await self._start_lookup(store, host, port)

    def _start_lookup(self, store: str, host: str, port: int) -> asyncio.Future[list[str]]:
        """Start a thread that only looks up; the event loop owns the count and the future."""
        loop = asyncio.get_running_loop()
        result: asyncio.Future[list[str]] = loop.create_future()

        def finish(addresses: list[str], error: Exception | None) -> None:
            self._lookups[store] -= 1
            if not self._lookups[store]:
                del self._lookups[store]
            if result.done():  # the caller has given up
                return
            if error is None:
                result.set_result(addresses)
            else:
                result.set_exception(error)

        def look_up() -> None:
            addresses, error = _look_up(host, port)
            with suppress(RuntimeError):  # the loop has ended
                loop.call_soon_threadsafe(finish, addresses, error)

        threading.Thread(target=look_up, name=f"resolver of {store}", daemon=True).start()
        self._lookups[store] += 1
        return result


def _look_up(host: str, port: int) -> tuple[list[str], Exception | None]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # an invalid name raises UnicodeError, a ValueError
        return [], error
    return list(dict.fromkeys(str(address[0]) for *_, address in found)), None
