"""What all peers ask: the two calls of a blog as our worker makes them."""

import itertools
from collections.abc import Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import orjson
from pydantic import BaseModel

from bench.account.audit import Limits
from services.generator.blog import prompts
from services.generator.blog.article import Article, Outline
from services.generator.providers.openai import build_text_format

MODEL = "gpt-4o-mini"


@dataclass(frozen=True, slots=True)
class Question:
    """The arguments of `responses.create`, the model left out."""

    arguments: dict[str, Any]

    @property
    def tokens(self) -> int:
        """What a careful client expects to be charged: four bytes a token, and all that may be answered."""
        return len(orjson.dumps(self.arguments)) // 4 + int(self.arguments["max_output_tokens"])


Ask = Callable[[Question], Awaitable[Any]]
Caller = Callable[[str, Limits], AbstractAsyncContextManager[Ask]]


def questions() -> Iterator[Question]:
    """Outline, article, outline, article, without end."""
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
            _question(Outline, prompts.OUTLINE_INSTRUCTIONS, data, prompts.OUTLINE_MAX_TOKENS),
            _question(
                Article,
                prompts.ARTICLE_INSTRUCTIONS,
                with_outline.decode(),
                prompts.ARTICLE_MAX_TOKENS,
            ),
        )
    )


def _question(answer: type[BaseModel], instructions: str, data: str, max_tokens: int) -> Question:
    return Question(
        {
            "instructions": instructions,
            "input": data,
            "max_output_tokens": max_tokens,
            "text": build_text_format(answer),
        }
    )
