"""Takes screenshots of pages if the machine has a browser."""

import asyncio
import tempfile
from pathlib import Path

from sandbox.demo import browser


async def take_screenshot(url: str, target: Path) -> bool:
    """Save a screenshot of `url`; return False without a browser or when the browser fails.

    The browser lets four seconds of virtual time pass, so the page must not hold a stream open.
    """
    executable = browser.find_browser()
    if executable is None:
        return False
    _remove_old_screenshot(target)
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
    return process.returncode == 0 and _is_written(target)


def _remove_old_screenshot(target: Path) -> None:
    target.unlink(missing_ok=True)
    target.parent.mkdir(parents=True, exist_ok=True)


def _is_written(target: Path) -> bool:
    return target.exists() and target.stat().st_size > 0
