"""A picture of the dashboard, when there is a browser on the machine."""

import asyncio
import shutil
import tempfile
from pathlib import Path

_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")


async def take(url: str, target: Path) -> bool:
    """Save what a headless browser shows of `url`; False when there is no browser or it does not manage."""
    browser = next((found for name in _BROWSERS if (found := shutil.which(name))), None)
    if browser is None:
        return False
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as profile:
        arguments = (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            f"--user-data-dir={profile}", "--window-size=1280,1400", "--virtual-time-budget=4000",
            f"--screenshot={target}", url,
        )  # fmt: skip
        process = await asyncio.create_subprocess_exec(
            browser, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
        )
        try:
            async with asyncio.timeout(30):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
    return process.returncode == 0
