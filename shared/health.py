"""Whether a process still lives: its event loop touches a file (HEARTBEAT_FILE), and probes look how old that is.

`python -m shared.health` exits 0 while the heartbeat is fresh, `python -m shared.health URL` while the URL answers 2xx;
1 otherwise, with one line. It is what containers run as their health check, so it needs nothing but the standard
library: it starts in a fraction of a second.
"""

import asyncio
import os
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

HEARTBEAT_VARIABLE = "HEARTBEAT_FILE"
_EVERY_S = 2.0
_STALE_S = 15.0
_ANSWER_WITHIN_S = 4.0


async def keep_heartbeat(file: Path) -> None:
    """Touch the file every two seconds, until cancelled. A loop that hangs does not."""
    while True:
        file.touch()  # noqa: ASYNC240 - takes microseconds, and must not go on in a thread while the loop hangs
        await asyncio.sleep(_EVERY_S)


def check_heartbeat(file: Path, now: float) -> str | None:
    """What is wrong; None while it is fresh. `now` in seconds since the epoch."""
    try:
        age = now - file.stat().st_mtime
    except OSError as error:
        return f"no heartbeat: {error}"
    return None if age <= _STALE_S else f"the last heartbeat is {age:.0f} s old"


def check_url(url: str) -> str | None:
    try:
        with urllib.request.urlopen(url, timeout=_ANSWER_WITHIN_S):  # noqa: S310 - the operator's own probe
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
