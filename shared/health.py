"""Liveness of a process: its event loop touches the file HEARTBEAT_FILE, and probes check its age.

`python -m shared.health` exits 0 while the heartbeat is fresh, and `python -m shared.health URL`
while the URL answers 2xx. Otherwise it prints one line and exits 1. Containers run it as their
health check. It imports the standard library only, so that it starts in a fraction of a second.
"""

import asyncio
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HEARTBEAT_VARIABLE = "HEARTBEAT_FILE"
_INTERVAL_S = 2.0
_MAX_AGE_S = 15.0
_URL_TIMEOUT_S = 4.0


async def keep_heartbeat(file: Path) -> None:
    """Touch the file every two seconds until cancelled. A hanging event loop stops touching it."""
    while True:
        # Takes microseconds. A thread would go on touching the file while the loop hangs.
        file.touch()  # noqa: ASYNC240
        await asyncio.sleep(_INTERVAL_S)


def check_heartbeat(file: Path, now: float) -> str | None:
    """Return the fault; `None` while the heartbeat is fresh. `now`: seconds since the epoch."""
    try:
        age = now - file.stat().st_mtime
    except OSError as error:
        return f"no heartbeat: {error}"
    return None if age <= _MAX_AGE_S else f"the last heartbeat is {age:.0f} s old"


def check_url(url: str) -> str | None:
    """Return the fault, or `None` when the URL answers 2xx."""
    try:
        # The operator chooses the URL.
        with urllib.request.urlopen(url, timeout=_URL_TIMEOUT_S):  # noqa: S310
            return None
    except (urllib.error.URLError, OSError, ValueError) as error:
        return f"{url}: {error}"


def main(arguments: list[str]) -> int:
    if arguments:
        fault = check_url(arguments[0])
    elif (file := os.environ.get(HEARTBEAT_VARIABLE)) is not None:
        fault = check_heartbeat(Path(file), time.time())
    else:
        fault = f"{HEARTBEAT_VARIABLE} is not set, and no URL was given"
    if fault is not None:
        print(fault, file=sys.stderr)
    return int(fault is not None)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
