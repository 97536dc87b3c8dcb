"""A local chat server that accepts messages in Slack's format."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from shared.http import server
from tests.support.backend import running_service

SECRET = "T0-very-secret"


@dataclass(slots=True)
class ChatReceiver:
    """Answers with the statuses in `answers` first, then with 200.

    `received` has the accepted texts; `requests` counts all requests.
    """

    answers: list[int]
    url: str = ""
    requests: int = 0
    received: list[str] = field(default_factory=list)

    async def receive(self, request: Request) -> Response:
        self.requests += 1
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            body = await request.json()
            assert list(body) == ["text"]
            self.received.append(body["text"])
        return Response(status_code=status)


@asynccontextmanager
async def start_chat_receiver(*answers: int) -> AsyncIterator[ChatReceiver]:
    chat, listener = ChatReceiver(list(answers)), server.open_listener("127.0.0.1", 0)
    chat.url = f"http://127.0.0.1:{listener.getsockname()[1]}/services/{SECRET}"
    application = Starlette(routes=[Route(f"/services/{SECRET}", chat.receive, methods=["POST"])])
    async with running_service(lambda stop: server.serve_http(application, listener, stop)):
        yield chat
