"""Hosts' names → addresses, each looked up in a thread of its own.

The system's resolver blocks for as long as the host's own name server likes, and a look-up that was given up goes on.
The event loop's few threads are for what everybody needs: here a store has its own, up to as many as it may send
webhooks at once, and none of them is waited for when the process ends.
"""

import asyncio
import socket
import threading
from collections import Counter
from contextlib import suppress

_OF_ALL = 200
_OF_ONE_STORE = 4
_DEADLINE_S = 5.0


class Resolver:
    """Look-ups that were given up count until their thread has ended: a store cannot pile them up."""

    def __init__(self) -> None:
        self._busy = Counter[str]()

    async def addresses(self, store: str, host: str, port: int) -> list[str]:
        """The addresses of a host, for a store. OSError when it has none, TimeoutError when it takes too long."""
        if self._busy[store] >= _OF_ONE_STORE or self._busy.total() >= _OF_ALL:
            raise TimeoutError("look-ups of before have not ended yet")
        async with asyncio.timeout(_DEADLINE_S):
            return await self._begun(store, host, port)

    def _begun(self, store: str, host: str, port: int) -> asyncio.Future[list[str]]:
        """Runs in the loop, as all that touches the count and the future: the thread only looks up."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[str]] = loop.create_future()

        def ended(addresses: list[str], fault: Exception | None) -> None:
            self._busy[store] -= 1
            if not self._busy[store]:
                del self._busy[store]
            if found.done():  # it was given up
                return
            if fault is None:
                found.set_result(addresses)
            else:
                found.set_exception(fault)

        def look_up() -> None:
            addresses, fault = _look_up(host, port)
            with suppress(RuntimeError):  # the loop ended before
                loop.call_soon_threadsafe(ended, addresses, fault)

        threading.Thread(target=look_up, name=f"resolver of {store}", daemon=True).start()
        self._busy[store] += 1
        return found


def _look_up(host: str, port: int) -> tuple[list[str], Exception | None]:
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, ValueError) as error:  # UnicodeError, of a name that is none, is a ValueError
        return [], error
    return list(dict.fromkeys(str(address[0]) for *_, address in found)), None
