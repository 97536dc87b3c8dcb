"""A generator worker that sends itself a signal at a named boundary of its first job.

It is the real worker with the real SDKs; some of its methods are wrapped, in this process only. A boundary is "before",
"amid" or "after" a place: a method and what it is about, as in `before begin_step:outline`. Once there it says so on
its wire and waits for a word, so that a test can lead many workers to their boundaries and let them die in one go.
"""

import asyncio
import functools
import os
import signal
from collections.abc import Iterable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from aiokafka import AIOKafkaConsumer

from services.generator import service
from services.generator.blog.image_storage import FolderImageStorage
from services.generator.jobs.repository import GenerationRepository
from services.generator.jobs.worker import Worker
from services.generator.providers.openai import TextCall, OpenAITextProvider
from services.generator.providers.replicate import ReplicateImageProvider
from services.generator.settings import GeneratorSettings
from shared.domain.job import Step
from shared.domain.messages import JobEvent
from shared.kafka.publisher import Outgoing, Publisher
from shared.observability import log
from shared.runtime import lifecycle

LATE = "a call is made after the drain has returned"
"""Logged. The drain has said that nothing runs any more: such a job is cut off soon, and its call made again."""

_AMID_S = 0.01
"""Into a call: the request is out, and the stand-in answers later."""

_WRAPPED: tuple[tuple[type, str], ...] = (
    (GenerationRepository, "claim"),
    (GenerationRepository, "begin_step"),
    (GenerationRepository, "name_call"),
    (GenerationRepository, "finish_step"),
    (GenerationRepository, "complete"),
    (OpenAITextProvider, "write"),
    (ReplicateImageProvider, "create"),
    (ReplicateImageProvider, "finish"),
    (FolderImageStorage, "put"),
    (Publisher, "publish"),
    (AIOKafkaConsumer, "commit"),
    (Worker, "drain"),
)
_PAID = {"write", "create"}
_OF_THE_IMAGE = {"create", "finish", "put"}


def run(
    boundary: str,
    number: signal.Signals,
    settings: GeneratorSettings,
    name: str,
    wire: Connection,
    output: Path,
) -> None:
    """A process's whole life; what it logs goes to `output`."""
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    log.configure("generator", settings.log_level)

    async def main(stop: asyncio.Event) -> None:
        _Doom(boundary, number, wire)
        await service.run_worker(settings, stop, name=name)

    lifecycle.run_service(main)


class _Doom:
    """Wraps the methods, and waits at the boundary. A step beside the boundary's own waits until the signal is sent:
    so exactly one call can be in flight when it comes.
    """

    def __init__(self, boundary: str, number: signal.Signals, wire: Connection) -> None:
        self._when, _, self._place = boundary.partition(" ")
        self._number = number
        self._wire = wire
        self._held = {"article": "begin_step:image", "image": "begin_step:article"}.get(
            boundary.rpartition(":")[2]
        )
        self._told = self._drained = False
        self._word, self._sent, self._draining = asyncio.Event(), asyncio.Event(), asyncio.Event()
        asyncio.get_running_loop().add_reader(wire.fileno(), self._hear)
        for owner, method in _WRAPPED:
            self._wrap(owner, method)

    def _wrap(self, owner: type, method: str) -> None:
        real = getattr(owner, method)

        @functools.wraps(real)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            place = self._place_of(method, (*args, *kwargs.values()))
            if place == "drain":
                self._draining.set()
            if place == self._held:
                await self._sent.wait()
            await self._meet("before", place)
            if self._drained and method in _PAID:
                log.get_logger(__name__).error(LATE, place=place)
            result = await self._amid(place, real, *args, **kwargs)
            self._told = self._told or place == "publish:ended"
            self._drained = self._drained or place == "drain"
            await self._meet("after", place)
            return result

        setattr(owner, method, wrapped)

    def _place_of(self, method: str, arguments: Iterable[Any]) -> str:
        if method == "commit" and not self._told:
            return "commit of something else"
        return ":".join((method, *(["image"] if method in _OF_THE_IMAGE else _about(arguments))))

    async def _meet(self, when: str, place: str) -> None:
        if (when, place) != (self._when, self._place) or self._sent.is_set():
            return
        await self._send()
        # SIGTERM is to find the worker right here. A commit goes on: the consumer's turn ends before the drain begins.
        if place != "commit":
            await self._draining.wait()

    async def _amid(self, place: str, real: Any, *args: Any, **kwargs: Any) -> Any:
        if ("amid", place) != (self._when, self._place) or self._sent.is_set():
            return await real(*args, **kwargs)
        await self._hear_the_word()
        call = asyncio.ensure_future(real(*args, **kwargs))
        await asyncio.wait({call}, timeout=_AMID_S)
        await self._send()
        return await call

    async def _send(self) -> None:
        await self._hear_the_word()
        os.kill(os.getpid(), self._number)
        self._sent.set()

    async def _hear_the_word(self) -> None:
        if not self._word.is_set():
            self._wire.send("at the boundary")
            await self._word.wait()

    def _hear(self) -> None:
        try:
            self._wire.recv()
        except EOFError:
            os._exit(1)  # the test is gone
        self._word.set()


def _about(arguments: Iterable[Any]) -> list[str]:
    """The step or the event that a call is about."""
    for argument in arguments:
        match argument:
            case Step():
                return [argument.value]
            case TextCall():
                return [str(argument.step)]
            case Outgoing(message=JobEvent() as event):
                return [event.kind.value, *([str(event.step)] if event.step else [])]
    return []
