"""FastAPI and Celery as in their guides: `python -m bench.intake.fastapi_celery PORT REDIS`.

A model validates the body, and the task is in the broker before the 201. There is no
authentication. Celery's blocking send runs on the event loop: with a local broker this accepts
nearly twice as many requests as threads do.
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


class IntakeAnswer(BaseModel):
    id: UUID
    status: str
    store: str


def application(broker: str) -> FastAPI:
    celery = Celery("bench", broker=broker, task_ignore_result=True)

    @celery.task  # type: ignore[untyped-decorator] # Celery comes without types
    def write_blog(job: str, body: dict[str, Any]) -> None:
        """Do nothing: no worker runs, only the intake of requests is measured."""

    app = FastAPI()

    @app.get("/readyz")
    def ready() -> None:
        return

    @app.post(PATH, status_code=201)
    async def submit(body: BlogBody) -> IntakeAnswer:
        job = uuid4()
        write_blog.delay(str(job), body.model_dump())
        return IntakeAnswer(id=job, status="PENDING", store="bench")

    return app


def main() -> None:
    port, broker = sys.argv[1:]
    app = application(broker)
    uvicorn.run(
        app, port=int(port), log_level="warning", access_log=False, loop="uvloop", http="httptools"
    )


if __name__ == "__main__":
    main()
