"""`./blogstream demo` with its dashboard open in a browser. Imports nothing of the project."""

import asyncio
import os
import re
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from playwright.async_api import Error, Page, async_playwright, expect

from tests.support.whole_system import ROOT, free_port, temporary_home

_JOBS = 56
_LIVE = re.compile("live|polling")
pytestmark = pytest.mark.timeout(240)


@asynccontextmanager
async def start_demo(home: Path, metrics_port: int) -> AsyncIterator[asyncio.subprocess.Process]:
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
async def open_page(chromium: str) -> AsyncIterator[Page]:
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield await browser.new_page()
        await browser.close()


async def goto_once_served(page: Page, url: str, demo: asyncio.subprocess.Process) -> None:
    while True:
        try:
            await page.goto(url)
            return
        except Error:
            assert demo.returncode is None, "the demo ended before it served its page"
            await asyncio.sleep(0.2)


async def watch_done_count(page: Page, demo: asyncio.subprocess.Process) -> list[int]:
    """Return every count that the page shows until the demo ends."""
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
    with temporary_home() as folder:
        yield folder


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip(
            "no Chromium on this machine;"
            " tests/integration/metrics/test_dashboard.py installs one where that can be done"
        )
    return found


async def test_the_page_follows_a_demo_that_saves_its_picture(home: Path, chromium: str) -> None:
    port = free_port()
    async with start_demo(home, port) as demo, open_page(chromium) as page:
        output = asyncio.create_task(demo.communicate())
        await goto_once_served(page, f"http://127.0.0.1:{port}/", demo)
        await expect(page.locator("body")).to_have_attribute("data-state", _LIVE, timeout=60_000)
        await expect(page.locator("#standins")).to_be_visible(timeout=30_000)
        shown = await watch_done_count(page, demo)
        stdout, log = (text.decode() for text in await output)
        assert demo.returncode == 0, log
        assert len(shown) >= 3, shown
        assert shown == sorted(shown)
        await expect(page.locator("body")).to_have_attribute("data-state", "stale", timeout=20_000)
    for name, picture in (("dashboard", home / "dashboard.png"), ("interface", home / "docs.png")):
        assert f"{name}: {picture}" in stdout
        assert picture.read_bytes().startswith(b"\x89PNG")
    assert f"({_JOBS} pages" in stdout
