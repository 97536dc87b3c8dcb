"""A chat's server on this machine, which takes what is posted to it as Slack does."""

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
    """A chat's server: answers with `answers` first, then with 200. `heard` is what it took, `tries` all that came."""

    answers: list[int]
    url: str = ""
    tries: int = 0
    heard: list[str] = field(default_factory=list)

    async def take(self, request: Request) -> Response:
        self.tries += 1
        status = self.answers.pop(0) if self.answers else 200
        if status == 200:
            body = await request.json()
            assert list(body) == ["text"]
            self.heard.append(body["text"])
        return Response(status_code=status)


@asynccontextmanager
async def start_chat_receiver(*answers: int) -> AsyncIterator[ChatReceiver]:
    chat, listener = ChatReceiver(list(answers)), server.open_listener("127.0.0.1", 0)
    chat.url = f"http://127.0.0.1:{listener.getsockname()[1]}/services/{SECRET}"
    application = Starlette(routes=[Route(f"/services/{SECRET}", chat.take, methods=["POST"])])
    async with running_service(lambda stop: server.serve_http(application, listener, stop)):
        yield chat
