"""The first command of the README, with the dashboard open beside it. Imports nothing of the project."""

import asyncio
import os
import re
import shutil
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Error, Page, async_playwright, expect

ROOT = Path(__file__).parents[2]
_JOBS = 56
_LIVE = re.compile("live|polling")
pytestmark = pytest.mark.timeout(240)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@asynccontextmanager
async def a_demo(home: Path, metrics_port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    environment = {
        name: os.environ[name] for name in ("PATH", "HOME", "XDG_CACHE_HOME") if name in os.environ
    } | {
        "BLOGSTREAM_HOME": str(home),
        "PORT": str(free_port()),
        "METRICS_PORT": str(metrics_port),
        "STANDIN_OPENAI_LATENCY_MS": "1500",
        "STANDIN_REPLICATE_LATENCY_MS": "1500",
    }
    pipe = asyncio.subprocess.PIPE
    demo = await asyncio.create_subprocess_exec(
        ROOT / "blogstream", "demo", env=environment, stdout=pipe, stderr=pipe
    )
    try:
        yield demo
    finally:
        if demo.returncode is None:
            demo.terminate()
            await demo.communicate()


@asynccontextmanager
async def a_page(chromium: str) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield await browser.new_page()
        await browser.close()


async def open_when_it_is_served(page: Page, url: str, demo: asyncio.subprocess.Process) -> None:
    while True:
        try:
            await page.goto(url)
            return
        except Error:
            assert demo.returncode is None, "the demo ended before its page was served"
            await asyncio.sleep(0.2)


async def done_in_all(page: Page, demo: asyncio.subprocess.Process) -> list[int]:
    """Every count that the page shows until the demo ends."""
    shown: list[int] = []
    count = page.locator("#health div", has_text="Done in all").locator("dd")
    while demo.returncode is None:
        seen = int(await count.inner_text())
        if seen not in shown[-1:]:
            shown.append(seen)
        await asyncio.sleep(0.1)
    return shown


@pytest.fixture
def home() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="blogstream-test-", ignore_cleanup_errors=True) as name:
        Path(name).chmod(0o711)  # as root, PostgreSQL runs as another user, who must pass
        yield Path(name) / "home"


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip(
            "no Chromium on this machine; tests/integration/test_page.py installs one where that can be done"
        )
    return found


async def test_the_page_lives_through_a_demo_and_a_picture_of_it_is_left(
    home: Path, chromium: str
) -> None:
    port = free_port()
    async with a_demo(home, port) as demo, a_page(chromium) as page:
        telling = asyncio.create_task(demo.communicate())
        await open_when_it_is_served(page, f"http://127.0.0.1:{port}/", demo)
        await expect(page.locator("body")).to_have_attribute("data-state", _LIVE, timeout=60_000)
        await expect(page.locator("#standins")).to_be_visible(timeout=30_000)
        shown = await done_in_all(page, demo)
        told, log = (text.decode() for text in await telling)
        assert demo.returncode == 0, log
        assert len(shown) >= 3, shown
        assert shown == sorted(shown)
        await expect(page.locator("body")).to_have_attribute("data-state", "stale", timeout=20_000)
    for what, picture in (("dashboard", home / "dashboard.png"), ("interface", home / "docs.png")):
        assert f"{what}: {picture}" in told
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"({_JOBS} pages" in told
