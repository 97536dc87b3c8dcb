"""Generates the calls of all peers: the outline and article calls of a worker."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from bench.account.decisions import AccountLimits
from services.generator.blog import prompts
from services.generator.blog.article import Article, Outline
from services.generator.providers.openai.requests import build_text_format

MODEL = "gpt-4o-mini"


@dataclass(frozen=True, slots=True)
class ModelCall:
    """The arguments of `responses.create`, the model left out."""

    arguments: dict[str, Any]

    @property
    def tokens(self) -> int:
        """The tokens a careful client reserves: four bytes a token, plus the maximum answer."""
        return len(orjson.dumps(self.arguments)) // 4 + int(self.arguments["max_output_tokens"])


SendCall = Callable[[ModelCall], Awaitable[Any]]
OpenPeer = Callable[[str, AccountLimits], AbstractAsyncContextManager[SendCall]]


def generate_calls() -> Iterator[ModelCall]:
    """Yield outline and article calls in turn, without end."""
    description = "Green tea from Uji. " * 60
    outline = Outline(
        title="Tea", angle="At home", headings=["Water", "Leaves", "Time"], keywords=["tea"]
    )
    data = orjson.dumps({"title": "How to brew green tea at home", "product": description}).decode()
    with_outline = orjson.dumps(
        {"title": "How to brew it", "product": description, "outline": outline.model_dump()}
    )
    return itertools.cycle(
        (
            _build_call(Outline, prompts.OUTLINE_INSTRUCTIONS, data, prompts.OUTLINE_MAX_TOKENS),
            _build_call(
                Article,
                prompts.ARTICLE_INSTRUCTIONS,
                with_outline.decode(),
                prompts.ARTICLE_MAX_TOKENS,
            ),
        )
    )


def _build_call(
    answer: type[BaseModel], instructions: str, data: str, max_tokens: int
) -> ModelCall:
    return ModelCall(
        {
            "instructions": instructions,
            "input": data,
            "max_output_tokens": max_tokens,
            "text": build_text_format(answer),
        }
    )
