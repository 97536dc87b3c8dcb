"""A minimal peer of ingest: `python -m bench.intake.starlette_aiokafka PORT KAFKA TOPIC`.

It publishes the same record as ingest with the same acknowledgement. It has no authentication, no
validation, no admission control, no idempotency, no tracing and no deadlines.
"""

import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import orjson
import uuid_utils
import uvicorn
from aiokafka import AIOKafkaProducer
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bench.intake.load_clients import PATH

_CONSTANT_HEADERS = [
    ("ce_specversion", b"1.0"),
    ("ce_type", b"blogstream.blog-requested.v1"),
    ("ce_source", b"bench"),
    ("content-type", b"application/json"),
    ("traceparent", b"00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-00"),
]
"""The headers of ingest's records, with the same length."""


class BareApp:
    def __init__(self, bootstrap: str, topic: str) -> None:
        self._topic = topic
        self._bootstrap = bootstrap

    @asynccontextmanager
    async def lifespan(self, _: Starlette) -> AsyncIterator[None]:
        self._producer = AIOKafkaProducer(
            bootstrap_servers=self._bootstrap,
            acks="all",
            enable_idempotence=True,
            compression_type="lz4",
        )
        async with self._producer:
            yield

    async def submit(self, request: Request) -> Response:
        body = orjson.loads(await request.body())
        store = request.headers["x-store"]
        job, now = str(uuid_utils.uuid7()), datetime.now(UTC).isoformat()
        message = {
            "id": job,
            "store": store,
            "source_type": body["sourceType"],
            "source_id": body["sourceId"],
            "created_at": now,
            "title": body["title"],
            "keywords": body["keywords"],
            "language": "en",
            "tone": None,
            "product": None,
            "priority": 0,
            "run_at": None,
            "webhook_url": None,
            "images": 1,
            "traceparent": None,
        }
        headers = [("ce_id", job.encode()), ("ce_time", now.encode()), *_CONSTANT_HEADERS]
        await self._producer.send_and_wait(
            self._topic, orjson.dumps(message), key=store.encode(), headers=headers
        )
        answer = orjson.dumps({"id": job, "status": "PENDING", "store": store, "createdAt": now})
        return Response(answer, 201, media_type="application/json")


async def ready(_: Request) -> Response:
    return Response()


def main() -> None:
    port, bootstrap, topic = sys.argv[1:]
    bare = BareApp(bootstrap, topic)
    routes = [Route(PATH, bare.submit, methods=["POST"]), Route("/readyz", ready)]
    app = Starlette(routes=routes, lifespan=bare.lifespan)
    uvicorn.run(
        app, port=int(port), log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )


if __name__ == "__main__":
    main()
