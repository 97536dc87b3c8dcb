"""/openapi.json is valid and complete, and real answers match it."""

from copy import deepcopy
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import orjson
import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from services.ingest.openapi.document import build_document
from shared.domain.api_keys import create_operator_key
from shared.kafka.topics import CONTROL
from tests.support.backend import Backend, make_request
from tests.support.eventually import eventually
from tests.support.ingest import (
    GOOD,
    PATH,
    Ingest,
    bearer,
    exceeded_budget,
    insert,
    post_until_status,
    start_ingest,
)
from tests.support.webhook_receiver import (
    DELIVERIES,
    complete_job,
    find_delivery,
    start_webhook_receiver,
)

ONE = f"{PATH}/{{id}}"
METRICS, STATS = "/metrics", "/api/rate-limiter/stats"


class AnswerValidator:
    """Checks answers against the document; `seen` collects the operations and statuses."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.seen: set[tuple[str, str, str]] = set()
        self._paths = document["paths"]
        self._components = deepcopy(document["components"])
        for schema in self._components["schemas"].values():
            if "properties" in schema:  # every answered field must be documented
                schema.setdefault("additionalProperties", False)

    def check(self, answer: httpx.Response, method: str, path: str, status: int) -> httpx.Response:
        responses = self._paths[path][method]["responses"]
        assert answer.status_code == status, answer.text
        assert str(status) in responses, f"{method} {path} does not list {status}"
        content = responses[str(status)]["content"]
        kind = answer.headers["content-type"].split(";")[0]
        assert kind in content
        assert set(responses[str(status)].get("headers", {})) - {"Link", "Retry-After"} <= {
            name for name in responses[str(status)].get("headers", {}) if name in answer.headers
        }
        if kind.endswith("json"):
            self._validate(answer.content, content[kind]["schema"])
        self.seen.add((method, path, str(status)))
        return answer

    def check_body(self, body: bytes, name: str) -> None:
        """Check that a body matches the named schema."""
        self._validate(body, {"$ref": f"#/components/schemas/{name}"})

    def _validate(self, body: bytes, schema: dict[str, Any]) -> None:
        checker = Draft202012Validator.FORMAT_CHECKER
        whole = schema | {"components": self._components}
        Draft202012Validator(whole, format_checker=checker).validate(orjson.loads(body))


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    return orjson.loads(orjson.dumps(build_document(version="1")))  # type: ignore[no-any-return]


def test_document_and_its_examples_are_valid(document: dict[str, Any]) -> None:
    validate(document)
    operations = [
        one for path in document["paths"].values() for one in path.values() if isinstance(one, dict)
    ]
    assert len({one["operationId"] for one in operations}) == len(operations)
    for one in operations:
        for media in one.get("requestBody", {}).get("content", {}).values():
            if "example" in media:
                schema = media["schema"] | {"components": document["components"]}
                Draft202012Validator(schema).validate(media["example"])
    problem = document["components"]["schemas"]["ProblemDetails"]["properties"]
    assert {"room", "taken", "id", "unknown", "resetsAt", "errors"} <= problem.keys()
    body = document["components"]["schemas"]["BlogRequestBody"]
    assert (body["additionalProperties"], body["required"]) == (False, ["sourceType", "sourceId"])
    assert body["properties"]["priority"]["maximum"] == 100


async def test_real_answers_match_the_document(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with (
        start_webhook_receiver() as receiver,
        start_ingest(
            backend, database, tmp_path, webhook_allow_loopback=True, max_pending_per_store=50
        ) as ingest,
    ):
        fetched = await ingest.http.get("/openapi.json")
        assert fetched.headers["content-type"] == "application/json"
        validator = AnswerValidator(fetched.json())
        waiting, done = (
            make_request(store="shop"),
            make_request(store="shop", webhook_url=receiver.url),
        )
        await insert(backend, waiting)
        await complete_job(backend, done)
        await _complete_rows(backend, done.id)
        await _submit(ingest, validator)
        await _read_and_change(ingest, validator, waiting.id, done.id)
        delivery = await eventually(lambda: find_delivery(ingest, done.id, "DELIVERED"))
        assert delivery is not None
        validator.check(
            await ingest.get(f"{DELIVERIES}?job={done.id}&limit=1"), "get", DELIVERIES, 200
        )
        validator.check(await ingest.get(f"{DELIVERIES}?limit=0"), "get", DELIVERIES, 422)
        replay = f"{DELIVERIES}/{{delivery}}/replay"
        validator.check(
            await _post(ingest, f"{DELIVERIES}/{delivery['id']}/replay"), "post", replay, 202
        )
        validator.check(await _post(ingest, f"{DELIVERIES}/{uuid4()}/replay"), "post", replay, 404)
        validator.check_body(receiver.received[0][2], "JobEnded")
        for path, status in (
            ("/health", 200),
            ("/livez", 200),
            ("/readyz", 200),
            (METRICS, 502),
            (STATS, 502),
        ):
            validator.check(await ingest.http.get(path), "get", path, status)
        await _budget(ingest, validator)
    documented = {
        (method, path)
        for path, item in fetched.json()["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert {(method, path) for method, path, _ in validator.seen} == documented, (
        "every operation was tried"
    )


async def _post(ingest: Ingest, path: str, **options: Any) -> httpx.Response:
    headers = bearer(ingest.key) | options.pop("headers", {})
    return await ingest.http.post(path, headers=headers, **options)


async def _submit(ingest: Ingest, validator: AnswerValidator) -> None:
    validator.check(await ingest.post(GOOD | {"keywords": ["a"]}), "post", PATH, 201)
    validator.check(await ingest.post({"sourceType": "x"}), "post", PATH, 422)
    validator.check(
        await ingest.post(content=b"{", headers={"Content-Type": "application/json"}),
        "post",
        PATH,
        400,
    )
    validator.check(await ingest.post(content=b"{}"), "post", PATH, 415)
    validator.check(
        await ingest.post(GOOD, headers={"Authorization": "Bearer x"}), "post", PATH, 401
    )
    bulk = f"{PATH}/bulk"
    validator.check(await _post(ingest, bulk, json=[GOOD]), "post", bulk, 201)
    validator.check(await _post(ingest, bulk, json=[{}]), "post", bulk, 422)
    validator.check(await _post(ingest, bulk, json=[GOOD] * 60), "post", bulk, 429)


async def _read_and_change(
    ingest: Ingest, validator: AnswerValidator, waiting: Any, done: Any
) -> None:
    for job in (waiting, done):
        validator.check(await ingest.get(f"{PATH}/{job}"), "get", ONE, 200)
    validator.check(await ingest.get(f"{PATH}/{uuid4()}"), "get", ONE, 404)
    validator.check(await ingest.get(f"{PATH}?limit=1"), "get", PATH, 200)
    validator.check(await ingest.get(f"{PATH}?status=x"), "get", PATH, 422)
    for action in ("cancel", "retry"):
        validator.check(
            await _post(ingest, f"{PATH}/{waiting}/{action}"), "post", f"{ONE}/{action}", 200
        )
        validator.check(
            await _post(ingest, f"{PATH}/{done}/{action}"), "post", f"{ONE}/{action}", 409
        )
    validator.check(await ingest.get(f"{PATH}/{done}/events"), "get", f"{ONE}/events", 200)
    validator.check(
        await _post(ingest, f"{PATH}/{done}/events-ticket"), "post", f"{ONE}/events-ticket", 201
    )


async def _budget(ingest: Ingest, validator: AnswerValidator) -> None:
    path, bulk = "/api/stores/{store}/budget", f"{PATH}/bulk"
    shop, operator = (
        path.format(store="shop"),
        await create_operator_key(ingest.backend.database, "ada"),
    )
    headers = bearer(operator)
    validator.check(await ingest.get(shop), "get", path, 200)
    validator.check(await ingest.get(path.format(store="other")), "get", path, 404)
    set_it = partial(ingest.http.put, shop, headers=headers)
    validator.check(await set_it(json={"monthlyCostUsd": 0.02, "warnAt": 0.5}), "put", path, 200)
    validator.check(await set_it(json={"monthlyCostUsd": -1}), "put", path, 422)
    validator.check(await ingest.get(shop), "get", path, 200)
    validator.check(await _post(ingest, bulk, json=[GOOD] * 5), "post", bulk, 402)
    resets_at = datetime.now(UTC) + timedelta(days=3)
    await ingest.backend.publish(CONTROL, "shop", exceeded_budget("shop", resets_at))
    validator.check(await post_until_status(ingest, 402), "post", PATH, 402)
    validator.check(await ingest.http.delete(shop, headers=headers), "delete", path, 200)


async def _complete_rows(backend: Backend, job: Any) -> None:
    """Give the job a step, a post and a wait estimate."""
    await backend.database.execute(
        "INSERT INTO blog_posts VALUES ($1, 'Title', 'slug', 'meta', '<p>x</p>', NULL)", job
    )
    await backend.database.execute(
        "INSERT INTO blog_steps (job_id, step, state, attempt, finished_at)"
        " VALUES ($1, 'outline', 'DONE', 1, now())",
        job,
    )
    await backend.database.execute(
        "INSERT INTO store_outlooks VALUES ('shop', 'TPM', 'TPM', 4, 0, now(), now(), now())"
    )


async def test_docs_page_has_strict_content_security_policy(
    backend: Backend, database: str, tmp_path: Path
) -> None:
    async with start_ingest(backend, database, tmp_path) as ingest:
        page = await ingest.http.get("/docs")
        policy = page.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self';" in policy
        assert "unsafe" not in policy
        assert page.text.count("<script src=") == page.text.count("<script") == 2, "nothing inline"
        for name, kind in (
            ("swagger-ui.css", "text/css"),
            ("swagger-ui-bundle.js", "text/javascript"),
            ("docs.js", "text/javascript"),
            ("favicon-32x32.png", "image/png"),
        ):
            assert f"/docs/{name}" in page.text
            asset = await ingest.http.get(f"/docs/{name}")
            assert (asset.status_code, asset.headers["content-type"].split(";")[0]) == (200, kind)
            assert asset.headers["x-content-type-options"] == "nosniff"
        for name in ("index.html", "..%2f__init__.py", "swagger-ui.js"):
            assert (await ingest.http.get(f"/docs/{name}")).status_code == 404
