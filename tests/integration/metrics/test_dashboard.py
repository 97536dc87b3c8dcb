"""The dashboard in a real browser: content, accessibility, and requests.

The page's files are the real ones, its data is scripted. Skipped when no Chromium can be found or
installed.
"""

import itertools
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta
from typing import Any, cast

import pytest
import pytest_asyncio
from axe_playwright_python.async_playwright import Axe
from playwright.async_api import Browser, Page, async_playwright, expect

from sandbox.demo import browser as installed
from sandbox.system.home import ROOT
from shared.domain.errors import Unavailable
from shared.http.responses import Problem
from tests.support import dashboard_snapshots
from tests.support.fake_metrics import FakeMetrics, serve_fake_metrics

pytestmark = pytest.mark.asyncio(loop_scope="module")

_PICTURES = ROOT / ".blogstream" / "page"
"""The folder of the screenshots."""
_WIDE, _PHONE = 1280, 360
_KEY = "sk_operator_0123456789"
_FAILED, _RUNNING = 4, 5
"""Numbers of two jobs in the flood snapshot."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    try:
        executable = installed.require_browser()
    except Unavailable as reason:
        pytest.skip(str(reason))
    expect.set_options(timeout=20_000)
    async with async_playwright() as playwright:
        started = await playwright.chromium.launch(
            executable_path=executable, args=["--no-sandbox"]
        )
        yield started
        await started.close()


@pytest_asyncio.fixture(loop_scope="module")
async def fake() -> AsyncIterator[FakeMetrics]:
    async with serve_fake_metrics() as made:
        yield made


@asynccontextmanager
async def open_page(
    browser: Browser,
    fake: FakeMetrics,
    *,
    width: int = _WIDE,
    dark: bool = False,
    state: str = "live",
) -> AsyncIterator[Page]:
    """Yield the page once it is in `state`.

    At the end, asserts that the console has no unexpected messages.
    """
    scheme: Any = "dark" if dark else "light"
    context = await browser.new_context(
        viewport={"width": width, "height": 800}, color_scheme=scheme
    )
    context.set_default_timeout(15_000)
    try:
        page = await context.new_page()
        await page.clock.install()
        messages: list[str] = []
        page.on(
            "console",
            lambda message: messages.append(message.text) if message.type != "log" else None,
        )
        page.on("pageerror", lambda error: messages.append(str(error)))
        await page.goto(fake.url)
        await expect(page.locator("body")).to_have_attribute("data-state", state)
        yield page
        unexpected = [line for line in messages if not line.startswith("Failed to load resource")]
        assert unexpected == [] if fake.expects_errors else messages == []
    finally:
        await context.close()


async def assert_accessible(page: Page) -> None:
    """Assert every rule of axe-core: roles, names, contrast, landmarks."""
    found = (await Axe().run(page)).response["violations"]
    assert [(rule["id"], [node["html"] for node in rule["nodes"]]) for rule in found] == []


async def assert_fits(page: Page) -> None:
    """Assert that the page is not wider than the screen."""
    width = await page.evaluate("document.documentElement.scrollWidth - innerWidth")
    assert width <= 0, f"{width} px too wide"


async def assert_banner_names_standins(page: Page, providers: list[str]) -> None:
    """Assert that the banner names each stand-in and no other provider."""
    banner = page.locator("#standins")
    assert await banner.is_visible() == bool(providers)
    text = (await banner.inner_text()).lower()
    for provider in ("openai", "replicate"):
        assert (f"a stand-in replaces {provider}:" in text) == (provider in providers)


def tile(page: Page, name: str) -> Any:
    return page.locator(".tile", has=page.get_by_text(name, exact=True))


async def open_job(page: Page, number: int) -> None:
    await page.get_by_role("button", name=f"Job {dashboard_snapshots.job_id(number)}").click()


@pytest.mark.parametrize("situation", ["idle", "flood", "provider_down", "alerts"])
async def test_situations_are_accessible_in_all_colours_and_widths(
    browser: Browser, fake: FakeMetrics, situation: str
) -> None:
    fake.snapshot = getattr(dashboard_snapshots, situation)()
    _PICTURES.mkdir(parents=True, exist_ok=True)
    async with open_page(browser, fake) as page:
        await expect(page.locator("#rate canvas")).to_be_visible()
        shown = [await line.inner_text() for line in await page.locator("#alerts b").all()]
        assert shown == [alert["name"] for alert in fake.snapshot["alerts"]]
        await assert_banner_names_standins(page, fake.snapshot["overview"]["standinProviders"])
        for width, scheme in itertools.product((_WIDE, _PHONE), ("light", "dark")):
            await page.set_viewport_size({"width": width, "height": 800})
            await page.emulate_media(color_scheme=cast(Any, scheme))
            await assert_accessible(page)
            await assert_fits(page)
            await page.screenshot(
                path=_PICTURES / f"{situation}-{width}-{scheme}.png", full_page=True
            )


async def test_numbers_change_in_place(browser: Browser, fake: FakeMetrics) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    async with open_page(browser, fake) as page:
        row = page.get_by_role("row", name="mega-mart").first
        await expect(row.locator("td").first).to_have_text("1,349")
        await row.evaluate("row => { row.mark = 'same row'; }")

        fake.snapshot["stores"].append(fake.snapshot["stores"].pop(0) | {"queued": 2})
        fake.snapshot["overview"] |= {"pending": 75, "donePerMinute": 3.2}
        fake.snapshot["workers"][1] |= {"draining": True, "running": 7}
        fake.snapshot["alerts"] = dashboard_snapshots.alerts()["alerts"]
        await expect(tile(page, "Pending").locator(".value")).to_have_text("75")
        await expect(tile(page, "Pending").locator(".rating")).to_have_text("OK")
        pace = tile(page, "Done a minute").locator(".rating")
        await expect(pace).to_have_text("Critical")
        fake.snapshot["overview"]["oldestWaitSeconds"] = 20.0
        await expect(pace).to_have_text("Starting")
        await expect(page.locator("#stores tr").last.locator("td").first).to_have_text("2")
        assert await page.locator("#stores tr").last.evaluate("row => row.mark") == "same row"
        await expect(page.locator("#workers tr").last).to_contain_text("drains 7")
        (alert,) = fake.snapshot["alerts"]
        await expect(page.locator("#alerts .what")).to_have_text(
            "queue-long1,412 jobs wait · limit 1,000"
        )
        await expect(page.locator("#alerts .since")).to_contain_text("2 min")
        await expect(page.locator("#alerts .means")).to_have_text(alert["means"])
        assert await page.title() == "(1) blogstream"


async def test_charts_show_the_last_hour_at_once(browser: Browser, fake: FakeMetrics) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    history = fake.snapshot["overview"]["history"]
    async with open_page(browser, fake) as page:
        chart = page.locator("#pending")
        hour_ago = datetime.fromisoformat(history["from"]) + timedelta(minutes=1)
        since = await page.evaluate(
            "time => new Date(time).toLocaleTimeString('en-GB')", hour_ago.isoformat()
        )
        await expect(chart).to_have_attribute(
            "aria-label", f"Pending: now 1,412, highest 1,900 since {since}"
        )
        await expect(page.locator("#rate")).to_have_attribute(
            "aria-label", re.compile("now 61.4, highest 64 since")
        )
        fake.snapshot["overview"]["pending"] = 2_000
        await expect(chart).to_have_attribute(
            "aria-label", f"Pending: now 2,000, highest 2,000 since {since}"
        )
        history["pending"][-1] = 3_000  # has no effect: the page reads the past once
        fake.snapshot["overview"]["pending"] = 2_100
        await expect(chart).to_have_attribute(
            "aria-label", f"Pending: now 2,100, highest 2,100 since {since}"
        )
        fake.clock_ahead_s = 600  # as after a laptop's sleep
        await expect(chart).to_have_attribute(
            "aria-label", re.compile("Pending: now 2,100, highest 3,000 since")
        )


async def test_bottleneck_is_shown_at_the_top_and_at_its_limit(
    browser: Browser, fake: FakeMetrics
) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    async with open_page(browser, fake) as page:
        await expect(tile(page, "In flight").locator(".note")).to_have_text(
            "2 workers · limited by openai tokens"
        )
        openai = page.locator(".provider").first
        await expect(openai.locator(".state")).to_have_text("Calls wait for tokens")
        await expect(openai.locator(".gauge", has_text="tokens").locator(".note")).to_contain_text(
            "12 calls waiting"
        )
        await expect(openai.locator("summary")).to_have_text("tokens by partition")
        fake.snapshot["rateLimiter"] = dashboard_snapshots.idle()["rateLimiter"]
        await expect(tile(page, "In flight").locator(".note")).to_have_text("2 workers")
        await expect(openai.locator(".state")).to_have_text("OK")


async def test_fairness_covers_competing_accounts_only(browser: Browser, fake: FakeMetrics) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    window = fake.snapshot["overview"]["fairness"]
    async with open_page(browser, fake) as page:
        await expect(page.locator("#fairness")).to_contain_text("Jain 0.987 among 9 accounts")
        window["contenders"] = 0
        await expect(page.locator("#fairness")).to_have_text(
            "no competing accounts in the last minute · light stores wait ×1.04"
        )


async def test_job_list_holds_still_while_it_has_focus(browser: Browser, fake: FakeMetrics) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    async with open_page(browser, fake) as page:
        first = page.locator("#jobs button").first
        last = page.get_by_role("button", name=f"Job {dashboard_snapshots.job_id(7)}")
        await last.focus()
        fake.snapshot["jobs"].reverse()
        fake.snapshot["jobs"][-1]["status"] = "DONE"
        await expect(page.locator("#jobs tr").first).to_contain_text("DONE")
        await expect(page.locator("#jobs-held")).to_be_visible()
        await expect(first).to_have_attribute("title", dashboard_snapshots.job_id(0))
        await page.clock.fast_forward(5_000)
        await expect(first).to_have_attribute("title", dashboard_snapshots.job_id(7))
        await expect(last).to_be_focused()


async def test_names_are_never_interpreted_as_markup(browser: Browser, fake: FakeMetrics) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    evil = "<img src=x onerror=alert(1)>"
    fake.snapshot["stores"][0]["store"] = fake.snapshot["jobs"][0]["store"] = evil
    fake.snapshot["workers"][0]["worker"] = evil
    async with open_page(browser, fake) as page:
        await expect(page.get_by_text(evil)).to_have_count(3)
        assert await page.locator("main img").count() == 0
        policy = (await page.request.get(fake.url)).headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy


async def test_loading_error_stale_and_live_states(browser: Browser, fake: FakeMetrics) -> None:
    fake.silent = fake.expects_errors = True
    async with open_page(browser, fake, state="loading") as page:
        await assert_accessible(page)
        assert await page.locator("#main").get_attribute("aria-busy") == "true"
        await page.clock.fast_forward(5_000)
        await expect(page.locator("body")).to_have_attribute("data-state", "error")
        await expect(page.get_by_role("alert")).to_contain_text(
            "503 Service Unavailable the tables are not recovered"
        )
        await assert_accessible(page)

        fake.silent = False
        fake.snapshot = dashboard_snapshots.flood()
        await expect(page.locator("body")).to_have_attribute("data-state", "live")
        await expect(page.get_by_role("alert")).to_be_hidden()
        assert await page.locator("#main").get_attribute("aria-busy") == "false"

        fake.silent = True
        await page.clock.fast_forward(6_000)
        await expect(page.locator("body")).to_have_attribute("data-state", "stale")
        await expect(page.get_by_role("alert")).to_contain_text("No numbers since")
        await expect(tile(page, "Pending").locator(".value")).to_have_text("1,412")
        await assert_accessible(page)
        await page.screenshot(path=_PICTURES / "stale.png")
        fake.silent = False
        await expect(page.locator("body")).to_have_attribute("data-state", "live")


async def test_service_without_stream_is_polled(browser: Browser, fake: FakeMetrics) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    fake.streams, fake.expects_errors = False, True
    async with open_page(browser, fake, state="polling") as page:
        await expect(page.locator("#no-alerts")).to_contain_text("does not evaluate alerts")
        await expect(page.locator("[data-of=jobs]")).to_have_text("This service lists no jobs.")
        fake.snapshot["overview"]["pending"] = 77
        await expect(tile(page, "Pending").locator(".value")).to_have_text("77")
        assert fake.requests["/api/overview"] > 1
        assert fake.requests["/api/alerts"] == fake.requests["/api/jobs"] == 1


async def test_colours_follow_the_system_until_switched(
    browser: Browser, fake: FakeMetrics
) -> None:
    ground = "getComputedStyle(document.body).backgroundColor"
    async with open_page(browser, fake, dark=True) as page:
        dark = await page.evaluate(ground)
        await page.get_by_role("button", name="Switch to light colours").click()
        light = await page.evaluate(ground)
        assert (dark, light) == ("rgb(14, 17, 22)", "rgb(245, 246, 248)")
        await page.reload()
        await expect(page.locator("body")).to_have_attribute("data-state", "live")
        assert await page.evaluate(ground) == light
        await expect(page.get_by_role("button", name="Switch to dark colours")).to_be_visible()


async def test_job_is_retried_with_the_operator_key(browser: Browser, fake: FakeMetrics) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    job = dashboard_snapshots.job_id(_FAILED)
    fake.timelines[job] = dashboard_snapshots.timeline(
        _FAILED, "FAILED", "openai refused the prompt"
    )
    async with open_page(browser, fake) as page:
        await open_job(page, _FAILED)
        steps = page.locator("#timeline li")
        await expect(steps).to_have_count(10)
        await expect(steps.nth(2)).to_contain_text("Left the queue")
        await expect(steps.nth(2).locator(".took")).to_have_text("8.7 s")
        await expect(steps.nth(7)).to_contain_text("6.5 s of it waiting for a provider's limit")
        await expect(page.locator("#job-error")).to_have_text("openai refused the prompt")
        await expect(page.get_by_role("button", name="Cancel job")).to_be_disabled()
        await assert_accessible(page)

        await page.get_by_role("button", name="Retry").click()
        await expect(page.locator("#answer")).to_contain_text("Type an operator key first")
        assert fake.actions == []
        await page.get_by_label("Operator key").fill(_KEY)
        await page.get_by_role("button", name="Retry").click()
        await expect(page.locator("#answer")).to_have_text("The job is retried: PENDING.")
        assert fake.actions == [(f"/api/jobs/{job}/retry", f"Bearer {_KEY}")]
        await expect(page.locator("#job-facts")).to_contain_text("PENDING")
        await expect(page.get_by_role("button", name="Retry")).to_be_disabled()
        kept = "[Object.values(sessionStorage), Object.values(localStorage), document.cookie]"
        assert await page.evaluate(kept) == [[_KEY], [], ""]

        await page.keyboard.press("Escape")
        await expect(page.locator("#job")).to_be_hidden()
        await expect(page.get_by_role("button", name=f"Job {job}")).to_be_focused()


async def test_job_is_cancelled_on_a_phone_and_refusal_is_shown(
    browser: Browser, fake: FakeMetrics
) -> None:
    fake.snapshot, fake.expects_errors = dashboard_snapshots.flood(), True
    job = dashboard_snapshots.job_id(_RUNNING)
    fake.timelines[job] = dashboard_snapshots.timeline(_RUNNING, "PROCESSING")
    fake.refusal = Problem(409, "Conflict", detail="its last step is being paid for")
    async with open_page(browser, fake, width=_PHONE, dark=True) as page:
        await page.get_by_label("Job id").fill(job)
        await page.keyboard.press("Enter")
        await expect(page.locator("#timeline li").last).to_contain_text("Being written")
        await page.get_by_label("Operator key").fill(_KEY)
        await page.get_by_role("button", name="Cancel job").click()
        await expect(page.locator("#answer")).to_have_text(
            "Refused: 409 Conflict its last step is being paid for"
        )
        await assert_accessible(page)
        await assert_fits(page)
        await page.screenshot(path=_PICTURES / "job-360-dark.png")
        fake.refusal = None
        await page.get_by_role("button", name="Cancel job").click()
        await expect(page.locator("#answer")).to_have_text("The job is cancelled: CANCELLED.")
        assert fake.actions == [(f"/api/jobs/{job}/cancel", f"Bearer {_KEY}")] * 2

        await page.get_by_role("button", name="Close").click()
        await page.get_by_label("Job id").fill("no-such-job")
        await page.get_by_role("button", name="Open").click()
        await expect(page.locator("[data-of=timeline]")).to_have_text("No such job is known here.")


async def test_keyboard_reaches_every_control_with_visible_focus(
    browser: Browser, fake: FakeMetrics
) -> None:
    fake.snapshot = dashboard_snapshots.flood()
    selector = "main :is(button, input, summary, [tabindex='0']), header button"
    async with open_page(browser, fake) as page:
        controls = await page.locator(selector).evaluate_all(
            "all => all.filter(one => one.checkVisibility())"
            ".map((one, index) => one.dataset.stop = String(index))"
        )
        reached = set()
        for _ in range(len(controls) + 2):  # plus the skip link and the browser's own stop
            await page.keyboard.press("Tab")
            at, outline = await page.evaluate(
                "[document.activeElement.dataset.stop,"
                " getComputedStyle(document.activeElement).outlineStyle]"
            )
            if at is not None:
                assert outline == "solid"
                reached.add(at)
        assert reached == set(controls)

        await page.locator("summary").first.focus()
        await page.keyboard.press("Enter")
        await expect(page.locator("details[open] tbody tr")).to_have_count(24)
        await assert_accessible(page)
