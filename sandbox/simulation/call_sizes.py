"""Measures the calls of a usual post: with the production prompts, sent to the stand-in's rules."""

from datetime import UTC, datetime
from uuid import UUID

from pydantic import BaseModel

from sandbox.providers.openai.answer import Answer, write_answer
from sandbox.providers.openai.request import OpenAIOptions, read_request
from sandbox.simulation.settings import TextSize, TextSizes
from services.generator.blog import prompts
from services.generator.blog.article import Article, Outline
from services.generator.providers.accounts.account import TextAccount
from services.generator.providers.accounts.prices import Prices, find_text_prices
from services.generator.providers.openai.reasoning import ReasoningRoom
from services.generator.providers.openai.requests import CallText, build_body, expect_features
from services.generator.providers.openai.strict_schema import strict_schema_json
from shared.domain.errors import Unavailable
from shared.domain.job import SourceType
from shared.domain.messages import BlogRequested

_REQUEST = BlogRequested(
    id=UUID(int=1),
    store="store",
    source_type=SourceType.KEYWORD,
    source_id="green-tea",
    title="How to brew green tea at home",
    created_at=datetime(2026, 11, 27, tzinfo=UTC),
)


def measure_text_sizes(account: TextAccount) -> TextSizes:
    """Return the sizes of the calls for a usual post. Raises `Unavailable` without a price."""
    outline, written = _measure_call(
        account,
        Outline,
        prompts.OUTLINE_INSTRUCTIONS,
        prompts.build_outline_input(_REQUEST),
        prompts.OUTLINE_MAX_TOKENS,
    )
    article, _ = _measure_call(
        account,
        Article,
        prompts.ARTICLE_INSTRUCTIONS,
        prompts.build_article_input(_REQUEST, Outline.model_validate_json(written.text)),
        prompts.ARTICLE_MAX_TOKENS,
    )
    return TextSizes(
        outline=outline,
        article=article,
        largest_tokens=float(prompts.largest_call_tokens(account)),
    )


def _measure_call(
    account: TextAccount,
    answer: type[BaseModel],
    instructions: str,
    data: str,
    max_tokens: int,
) -> tuple[TextSize, Answer]:
    limit = ReasoningRoom(account).limit_output(max_tokens, 0)
    text = CallText(instructions=instructions, data=data, labels={}, max_output_tokens=limit)
    _, body = build_body(expect_features(account), account, text, answer)
    call = read_request("responses", body, {}, OpenAIOptions(models=(account.model,)))
    written = write_answer(call, None, seed=1, reasoning_tokens=None)
    reserved = prompts.estimate_max_tokens(instructions, data, strict_schema_json(answer)) + limit
    usage = _prices(account).usage_of_tokens(written.input_tokens, written.output_tokens)
    size = TextSize(
        reserved_tokens=min(reserved, account.tokens),
        charged_tokens=call.needed_tokens,
        used_tokens=written.total_tokens,
        cost=usage.cost_nanousd,
    )
    return size, written


def _prices(account: TextAccount) -> Prices:
    listed = find_text_prices(account.model, account.base_url)
    if listed is None:
        raise Unavailable(f"the price of OPENAI_MODEL {account.model} is not known")
    return Prices(input_usd=listed.input_usd, output_usd=listed.output_usd, image_usd=0.0)
