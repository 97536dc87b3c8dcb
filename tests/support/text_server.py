"""A text server of one process: its answers are scripted, and it remembers every call."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import orjson


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A call as it came in. The names of headers are in lower case."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """An answer to write. `dribble` sends white space every so many seconds before the body."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    dribble: float | None = None
    cut: bool = False
    """The connection ends before the body does."""


Script = Callable[[Call], Answer]


@dataclass(slots=True)
class TextServer:
    """The server's address, its script and its calls."""

    url: str
    script: Script
    calls: list[Call] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Answer the calls of one connection."""
        try:
            call = await _read_call(reader)
            self.calls.append(call)
            await _write_answer(writer, self.script(call))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


@asynccontextmanager
async def run_text_server(script: Script) -> AsyncIterator[TextServer]:
    """Run a server on a free port."""
    scripted = TextServer(url="", script=script)
    server = await asyncio.start_server(scripted.serve, "127.0.0.1", 0)
    scripted.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield scripted
    finally:
        server.close()


async def _read_call(reader: asyncio.StreamReader) -> Call:
    head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
    headers = {}
    for line in head[1:]:
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    content = await reader.readexactly(int(headers.get("content-length", 0)))
    body = orjson.loads(content) if content else {}
    return Call(path=head[0].split()[1], headers=headers, body=body)


async def _write_answer(writer: asyncio.StreamWriter, answer: Answer) -> None:
    is_text = isinstance(answer.body, str)
    content = answer.body.encode() if is_text else orjson.dumps(answer.body)
    headers = {"content-type": "text/plain" if is_text else "application/json"} | answer.headers
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    writer.write(f"HTTP/1.1 {answer.status} Scripted\r\n{lines}connection: close\r\n".encode())
    if answer.cut:
        writer.write(b"content-length: 9000\r\n")
    writer.write(b"\r\n")
    while answer.dribble is not None:
        writer.write(b" ")
        await writer.drain()
        await asyncio.sleep(answer.dribble)
    writer.write(content)
    await writer.drain()
