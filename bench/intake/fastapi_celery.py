"""FastAPI and Celery, as their guides show it: `python -m bench.intake.fastapi_celery PORT REDIS`.

A model judges the body, and a task is put into the broker before the 201. No key is asked for. Celery's send blocks,
and is called from the loop all the same: with a broker as near as this one, that takes in nearly twice as many requests
as threads do, which Python lets run one at a time.
"""

import sys
from typing import Any
from uuid import UUID, uuid4

import uvicorn
from celery import Celery
from fastapi import FastAPI
from pydantic import BaseModel, Field

from bench.intake.load_clients import PATH


class BlogBody(BaseModel):
    source_type: str = Field(alias="sourceType")
    source_id: str = Field(alias="sourceId", min_length=1, max_length=200)
    title: str | None = None
    keywords: list[str] = []


class AcceptedJob(BaseModel):
    id: UUID
    status: str
    store: str


def application(broker: str) -> FastAPI:
    celery = Celery("bench", broker=broker, task_ignore_result=True)

    @celery.task  # type: ignore[untyped-decorator] # Celery comes without types
    def write_blog(job: str, asked: dict[str, Any]) -> None:
        """No worker runs: what is measured is how requests are taken in."""

    app = FastAPI()

    @app.get("/readyz")
    def ready() -> None:
        return

    @app.post(PATH, status_code=201)
    async def submit(body: BlogBody) -> AcceptedJob:
        job = uuid4()
        write_blog.delay(str(job), body.model_dump())
        return AcceptedJob(id=job, status="PENDING", store="bench")

    return app


def main() -> None:
    port, broker = sys.argv[1:]
    app = application(broker)
    uvicorn.run(
        app, port=int(port), log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )


if __name__ == "__main__":
    main()
