"""A picture of a page, when there is a browser on the machine."""

import asyncio
import tempfile
from pathlib import Path

from sandbox.demo import browser


async def take_screenshot(url: str, target: Path) -> bool:
    """Save what a headless browser shows of `url`; False when there is no browser or it does not manage.

    The page must come to rest: four seconds of its own time are let pass, in which a stream would never end.
    """
    executable = browser.find_browser()
    if executable is None:
        return False
    _make_room(target)
    with tempfile.TemporaryDirectory() as profile:
        arguments = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            f"--user-data-dir={profile}",
            "--window-size=1280,1500",
            "--virtual-time-budget=4000",
            f"--screenshot={target}",
            url,
        )
        process = await asyncio.create_subprocess_exec(
            executable,
            *arguments,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    return process.returncode == 0 and _is_there(target)


def _make_room(target: Path) -> None:
    target.unlink(missing_ok=True)  # a picture of an earlier run must not pass for this one's
    target.parent.mkdir(parents=True, exist_ok=True)


def _is_there(target: Path) -> bool:
    return target.exists() and target.stat().st_size > 0
