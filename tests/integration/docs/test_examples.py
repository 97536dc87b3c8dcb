"""The README's examples, run as they stand against the real service; in curl's, only the address and ids are put in."""

import asyncio
import os
import re
from functools import partial
from pathlib import Path

import pytest
from playwright.async_api import async_playwright

from sandbox.demo import browser as installed
from sandbox.system.home import ROOT
from shared.domain.errors import Unavailable
from shared.domain.job import Status
from shared.domain.messages import EventKind
from tests.integration.ingest.test_event_stream import becomes, says
from tests.integration.ingest.test_webhooks import a_receiver, ends, has_state
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.ingest import Ingest, insert, start_ingest

_BLOCK = re.compile(r"^```sh\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)
_SCRIPT = re.compile(r"^```js\n(?P<lines>.*?)^```$", re.MULTILINE | re.DOTALL)


def examples() -> list[str]:
    """Every curl command of the part for shops' developers: continued lines joined, and what it answers behind it."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    part = text.partition("## For a shop's developer")[2].partition("\n## ")[0]
    lines = "".join(block["lines"] for block in _BLOCK.finditer(part)).replace("\\\n", " ")
    lines = lines.replace("\n# 20", "  # 20")
    return [line for line in lines.splitlines() if line.startswith("curl")]


async def run(command: str, ingest: Ingest, folder: Path) -> str:
    """What it prints: the body, then the status on a line of its own."""
    process = await asyncio.create_subprocess_shell(
        command.replace("curl ", "curl -sS -w '\\n%{http_code}' ", 1),
        cwd=folder,
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "TEST_TOKEN": ingest.key},
    )
    out, _ = await process.communicate()
    assert process.returncode == 0, command
    return out.decode()


async def test_they_work_as_they_stand(backend: Backend, database: str, tmp_path: Path) -> None:
    found = examples()
    assert len(found) >= 9
    export = (
        "Handle,Title,Body (HTML),Vendor,Type,Tags,Variant Price\ncup,Cup,,Acme,Kitchen,,4.00\n"
    )
    await asyncio.to_thread((tmp_path / "products.csv").write_text, export)
    async with (
        a_receiver() as receiver,
        start_ingest(backend, database, tmp_path, webhook_allow_loopback=True) as ingest,
    ):
        waiting, done = (
            make_request(store="shop"),
            make_request(store="shop", webhook_url=receiver.url),
        )
        await insert(backend, waiting)
        await ends(backend, done)
        delivery = await eventually(partial(has_state, ingest, done.id, "DELIVERED"))
        assert delivery is not None
        for example in found:
            job = waiting.id if "/cancel" in example or "/retry" in example else done.id
            command = example.replace("http://localhost:3000", str(ingest.http.base_url))
            command = (
                command.replace("/STORE/", "/shop/")
                .replace("/ID", f"/{job}")
                .replace("/DELIVERY", f"/{delivery['id']}")
            )
            said = re.search(r"# (20[0-9])", example)
            answer = await run(command, ingest, tmp_path)
            assert answer.splitlines()[-1] == (said[1] if said else "200"), f"{example}\n{answer}"


async def test_a_page_follows_a_job_to_its_end(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    """In a real browser; the first ticket is too old, as it is when the connection breaks after a minute."""
    try:
        executable = await asyncio.to_thread(installed.require_browser)
    except Unavailable as reason:
        pytest.skip(str(reason))
    script = _SCRIPT.search((ROOT / "README.md").read_text(encoding="utf-8"))
    assert script is not None
    request, shown, tickets = make_request(store="shop"), asyncio.Queue[str](), list[str]()
    await insert(backend, request)
    async with (
        start_ingest(backend, database, tmp_path) as ingest,
        async_playwright() as playwright,
    ):

        async def ticket_for(job: str) -> str:
            path = f"/api/blog-generation/{job}/events-ticket"
            answer = await ingest.http.post(path, headers={"Authorization": f"Bearer {ingest.key}"})
            tickets.append(str(answer.json()["url"]))
            return f"{ingest.http.base_url}{tickets[-1]}{'tooOld' if len(tickets) == 1 else ''}"

        started = await playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"]
        )
        page = await started.new_page()
        await page.expose_function("ticketFor", ticket_for)
        await page.expose_function("show", lambda told: shown.put_nowait(told["status"]))
        await page.evaluate(f"{script['lines']}; follow('{request.id}', ticketFor, show)")
        async with asyncio.timeout(30):
            assert await shown.get() == "PENDING"
            await becomes(backend, request, "DONE")
            await says(backend, request, EventKind.ENDED, Status.DONE)
            assert await shown.get() == "DONE"
        assert len(tickets) == 2
        await started.close()
