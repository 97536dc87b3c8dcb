"""A worker process that sends itself a signal at a named boundary of its first job.

It is the real worker with the real SDKs; some methods are wrapped in this process only. A boundary
is "before", "during" or "after" a call: a method and its subject, as in `before
begin_step:outline`. At the boundary the worker reports on its pipe and waits for an order, so that
a test can bring many workers to their boundaries and let them die at the same time.
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
from services.generator.providers.openai.provider import OpenAITextProvider, TextCall
from services.generator.providers.replicate.provider import ReplicateImageProvider
from services.generator.settings import GeneratorSettings
from shared.domain.job import Step
from shared.domain.messages import JobEvent
from shared.kafka.publisher import OutgoingMessage, Publisher
from shared.observability import log
from shared.runtime import lifecycle

CALL_AFTER_DRAIN = "a call is made after the drain has returned"
"""Logged for a call of a job that the drain missed: the job is cut off and its call repeated."""

_DURING_S = 0.01
"""The time into a call at which the signal is sent: before the stand-in answers."""

_WRAPPED: tuple[tuple[type, str], ...] = (
    (GenerationRepository, "claim_job"),
    (GenerationRepository, "begin_step"),
    (GenerationRepository, "save_external_id"),
    (GenerationRepository, "finish_step"),
    (GenerationRepository, "complete_job"),
    (OpenAITextProvider, "write_text"),
    (ReplicateImageProvider, "create_prediction"),
    (ReplicateImageProvider, "fetch_image"),
    (FolderImageStorage, "save_image"),
    (Publisher, "publish"),
    (AIOKafkaConsumer, "commit"),
    (Worker, "drain"),
)
_PAID_METHODS = {"write_text", "create_prediction"}
_IMAGE_METHODS = {"create_prediction", "fetch_image", "save_image"}


def run_crashing_worker(
    boundary: str,
    number: signal.Signals,
    settings: GeneratorSettings,
    name: str,
    pipe: Connection,
    output: Path,
) -> None:
    """Run the worker in this process until it dies; its log goes to `output`."""
    with output.open("wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    log.configure_logging("generator", settings.log_level)

    async def main(stop: asyncio.Event) -> None:
        _BoundarySignal(boundary, number, pipe)
        await service.run_worker(settings, stop, name=name)

    lifecycle.run_service(main)


class _BoundarySignal:
    """Wraps the methods and sends the signal at the boundary.

    The step that runs in parallel to the boundary's step waits for the signal, so that exactly one
    call can be in progress at that time.
    """

    def __init__(self, boundary: str, number: signal.Signals, pipe: Connection) -> None:
        self._when, _, self._call = boundary.partition(" ")
        self._number = number
        self._pipe = pipe
        self._held_call = {"article": "begin_step:image", "image": "begin_step:article"}.get(
            boundary.rpartition(":")[2]
        )
        self._outcome_published = self._drained = False
        self._ordered, self._sent, self._draining = (
            asyncio.Event(),
            asyncio.Event(),
            asyncio.Event(),
        )
        asyncio.get_running_loop().add_reader(pipe.fileno(), self._receive_order)
        for owner, method in _WRAPPED:
            self._wrap(owner, method)

    def _wrap(self, owner: type, method: str) -> None:
        real = getattr(owner, method)

        @functools.wraps(real)
        async def wrapped(*args: Any, **kwargs: Any) -> Any:
            call = self._name_call(method, (*args, *kwargs.values()))
            if call == "drain":
                self._draining.set()
            if call == self._held_call:
                await self._sent.wait()
            await self._stop_at("before", call)
            if self._drained and method in _PAID_METHODS:
                log.get_logger(__name__).error(CALL_AFTER_DRAIN, call=call)
            result = await self._run_call(call, real, *args, **kwargs)
            self._outcome_published = self._outcome_published or call == "publish:ended"
            self._drained = self._drained or call == "drain"
            await self._stop_at("after", call)
            return result

        setattr(owner, method, wrapped)

    def _name_call(self, method: str, arguments: Iterable[Any]) -> str:
        if method == "commit" and not self._outcome_published:
            return "earlier commit"
        subject = ["image"] if method in _IMAGE_METHODS else _find_subject(arguments)
        return ":".join((method, *subject))

    async def _stop_at(self, when: str, call: str) -> None:
        if (when, call) != (self._when, self._call) or self._sent.is_set():
            return
        await self._send_signal()
        # SIGTERM must find the worker at the boundary. A commit continues, because the consumer's
        # poll ends before the drain begins.
        if call != "commit":
            await self._draining.wait()

    async def _run_call(self, call: str, real: Any, *args: Any, **kwargs: Any) -> Any:
        if ("during", call) != (self._when, self._call) or self._sent.is_set():
            return await real(*args, **kwargs)
        await self._wait_for_order()
        task = asyncio.ensure_future(real(*args, **kwargs))
        await asyncio.wait({task}, timeout=_DURING_S)
        await self._send_signal()
        return await task

    async def _send_signal(self) -> None:
        await self._wait_for_order()
        os.kill(os.getpid(), self._number)
        self._sent.set()

    async def _wait_for_order(self) -> None:
        if not self._ordered.is_set():
            self._pipe.send("at the boundary")
            await self._ordered.wait()

    def _receive_order(self) -> None:
        try:
            self._pipe.recv()
        except EOFError:
            os._exit(1)  # the test process is gone
        self._ordered.set()


def _find_subject(arguments: Iterable[Any]) -> list[str]:
    """Return the step or the event that a call is about."""
    for argument in arguments:
        match argument:
            case Step():
                return [argument.value]
            case TextCall():
                return [str(argument.step)]
            case OutgoingMessage(message=JobEvent() as event):
                return [event.kind.value, *([str(event.step)] if event.step else [])]
    return []
