"""clients/python against the real service, and what it does when it is refused for now."""

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from blogstream_client import Client, ProblemError, WebhookVerificationError, verify_webhook
from services.ingest.webhooks.rules import sign
from shared.keys import create_operator_key
from tests.integration.ingest import Ingest, an_ingest, insert
from tests.integration.world import World, a_request


async def test_the_client_does_what_the_interface_can(world: World, database: str, tmp_path: Path) -> None:
    jobs = [a_request(store="shop") for _ in range(5)]
    for job, status in zip(jobs, ("PENDING", "PENDING", "FAILED", "DONE", "PENDING"), strict=True):
        await insert(world, job, status)
    await world.database.execute("INSERT INTO blog_posts VALUES ($1, 'T', 's', 'm', '<p>x</p>', NULL)", jobs[3].id)
    async with an_ingest(world, database, tmp_path) as ingest:
        await asyncio.to_thread(_use, ingest, [str(job.id) for job in jobs])


def _use(ingest: Ingest, jobs: list[str]) -> None:
    with Client(str(ingest.http.base_url), ingest.key) as blogs:
        first = blogs.submit("keyword", "tea", title="Tea", idempotency_key="k")
        assert (first.status, first.store, first.source_id) == ("PENDING", "shop", "tea")
        assert blogs.submit("keyword", "tea", title="Tea", idempotency_key="k").id == first.id
        assert blogs.submit("keyword", "tea").id != blogs.submit("keyword", "tea").id
        with pytest.raises(ProblemError) as refused:
            blogs.submit("nonsense", "tea")
        assert (refused.value.status, refused.value.errors[0]["field"]) == (422, "sourceType")
        assert len(blogs.submit_many([{"sourceType": "topic", "sourceId": "a"}] * 2)) == 2
        header = "Handle,Title,Body (HTML),Vendor,Type,Tags,Variant Price\n"
        (cup,) = blogs.submit_csv(f"{header}cup,Cup,,Acme,Kitchen,,4.00\n".encode())
        assert (cup.source_type, cup.source_id) == ("product", "cup")
        assert [job.id for job in blogs.list(page=2)] == jobs[::-1]
        assert [job.id for job in blogs.list("FAILED")] == [jobs[2]]
        assert blogs.cancel(jobs[0]).status == "CANCELLED"
        assert (blogs.retry(jobs[2]).status, blogs.get(jobs[2]).error) == ("PENDING", None)
        with pytest.raises(ProblemError, match="409 Conflict: a job that is DONE cannot be cancelled"):
            blogs.cancel(jobs[3])
        done = blogs.wait(jobs[3])
        assert (done.ended, done.post and done.post.title) == (True, "T")
        assert [(event.name, event.data["status"]) for event in blogs.events(jobs[3])] == [("job", "DONE")]
        with pytest.raises(TimeoutError, match="is PENDING after 0 s"):
            blogs.wait(jobs[4], timeout_s=0)


async def test_budgets(world: World, database: str, tmp_path: Path) -> None:
    operator = await create_operator_key(world.database, "ada")
    async with an_ingest(world, database, tmp_path) as ingest:
        await asyncio.to_thread(_budget, str(ingest.http.base_url), ingest.key, operator)


def _budget(url: str, key: str, operator: str) -> None:
    with Client(url, key) as blogs, Client(url, operator) as watch:
        assert (blogs.budget("shop").state, blogs.budget("shop").monthly_cost_usd) == ("ok", None)
        set_up = watch.set_budget("shop", 0.01, warn_at=0.5)
        assert (set_up.monthly_cost_usd, set_up.remaining_usd, set_up.raw["warnAt"]) == (0.01, 0.01, 0.5)
        assert blogs.budget("shop") == set_up
        with pytest.raises(ProblemError) as refused:
            blogs.submit_many([{"sourceType": "topic", "sourceId": "a"}] * 3)
        assert (refused.value.status, refused.value.resets_at) == (402, set_up.resets_at)
        with pytest.raises(ProblemError, match="403"):
            blogs.set_budget("shop", 100)
        assert watch.remove_budget("shop").monthly_cost_usd is None
        with pytest.raises(ProblemError, match="404"):
            blogs.budget("../x")


def test_it_comes_back_with_the_same_key_when_it_is_refused_for_now() -> None:
    heard, paused = list[str](), list[float]()
    answers: list[Any] = [
        httpx.Response(429, headers={"Retry-After": "7"}), httpx.ConnectError("away"), httpx.Response(503),
        httpx.Response(201, json={"id": "1", "status": "PENDING", "sourceType": "topic", "sourceId": "a"}),
    ]  # fmt: skip

    def answer(request: httpx.Request) -> httpx.Response:
        heard.append(request.headers["idempotency-key"])
        given = answers.pop(0)
        if isinstance(given, Exception):
            raise given
        assert isinstance(given, httpx.Response)
        return given

    with httpx.Client(transport=httpx.MockTransport(answer)) as http:
        blogs = Client("http://x/", "k", http=http, pause=paused.append)
        assert blogs.submit("topic", "a").id == "1"
        assert (paused, len(heard), len(set(heard))) == ([7.0, 1.0, 1.0], 4, 1)
        answers[:] = [httpx.Response(429, headers={"Retry-After": "60"})] * 3
        with pytest.raises(ProblemError, match="429"):
            blogs.submit("topic", "a")
        assert paused[3:] == [60.0]


def test_a_webhook_is_checked() -> None:
    secret, body = "whsec_" + "A" * 44, json.dumps({"type": "job.done"}).encode()
    headers = {
        "Webhook-Id": "msg_1", "webhook-timestamp": "1000",
        "webhook-signature": sign(["whsec_BBBB", secret], "msg_1", 1000, body),
    }  # fmt: skip
    assert verify_webhook(secret, headers, body, now=1010) == {"type": "job.done"}
    for changed, at in (
        ({"webhook-id": "msg_2", "Webhook-Id": "msg_2"}, 1010), ({"webhook-timestamp": "x"}, 1010),
        ({"webhook-signature": "v1,x"}, 1010), ({}, 2000),
    ):  # fmt: skip
        with pytest.raises(WebhookVerificationError):
            verify_webhook(secret, headers | changed, body, now=at)
    with pytest.raises(WebhookVerificationError):
        verify_webhook(secret, headers, body + b" ", now=1010)
