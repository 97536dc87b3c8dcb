"""Opens all provider accounts of a worker: clients, limiters and the pools over them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import httpx

from services.generator.blog.prompts import largest_call_tokens
from services.generator.providers.accounts.account import (
    ImageAccount,
    ProviderAccounts,
    TextAccount,
)
from services.generator.providers.accounts.choice import Offer
from services.generator.providers.accounts.pool import ImageAccountPool, TextAccountPool
from services.generator.providers.openai.client import create_text_client
from services.generator.providers.openai.provider import OpenAITextProvider
from services.generator.providers.replicate.http import close_client, create_client
from services.generator.providers.replicate.provider import ReplicateImageProvider
from services.generator.quota.held_jobs import HeldJobs
from services.generator.quota.provider_limiter import ProviderLimiter
from shared.domain.errors import Unavailable
from shared.domain.messages import Need
from shared.domain.quota_layout import count_carried_calls


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderSet:
    """The open accounts of a worker."""

    texts: TextAccountPool
    images: ImageAccountPool | None
    """`None` without an account for images."""
    paid_limiters: tuple[ProviderLimiter, ...]
    read_limiters: tuple[ProviderLimiter, ...]
    """Of the reads of predictions, which cost nothing."""
    text_timeout_s: float
    """The longest time of a call for a text."""

    @property
    def limiters(self) -> tuple[ProviderLimiter, ...]:
        return self.paid_limiters + self.read_limiters

    def stop_grants(self) -> None:
        """Begin no more paid calls. Predictions that are paid can still be read."""
        for limiter in self.paid_limiters:
            limiter.stop_grants()


@asynccontextmanager
async def open_providers(
    accounts: ProviderAccounts, *, burst_s: float, held: HeldJobs
) -> AsyncIterator[ProviderSet]:
    """Open the accounts. The vendors' SDKs make each call once: retries are the job's.

    `held` learns from the permits how far the worker's jobs are.
    """
    async with AsyncExitStack() as stack:
        texts = [await _open_text(account, stack, burst_s) for account in accounts.texts]
        images = await _open_images(accounts.images, stack, burst_s)
        offers = tuple(
            Offer(name=text.name, model=text.model, only_on_request=text.only_on_request)
            for text in accounts.texts
        )
        yield ProviderSet(
            texts=TextAccountPool(texts, offers, accounts.pinned, held),
            images=ImageAccountPool(images, held) if images else None,
            paid_limiters=(
                *(provider.limiter for provider in texts),
                *(provider.limiter for provider in images),
            ),
            read_limiters=tuple(provider.read_limiter for provider in images),
            text_timeout_s=max(account.timeout_s for account in accounts.texts),
        )


def check_quota(accounts: ProviderAccounts) -> None:
    """Raise `Unavailable` if the limit of an account cannot carry one call of the largest size."""
    for text in accounts.texts:
        _check_limit(text, "OPENAI_RPM", "requests_per_minute", text.requests, 1)
        largest = largest_call_tokens(text)
        _check_limit(text, "OPENAI_TPM", "tokens_per_minute", text.tokens, largest)
    for image in accounts.images:
        _check_limit(image, "REPLICATE_RPM", "requests_per_minute", image.requests, 1)
        _check_limit(image, "REPLICATE_READ_RPM", "reads_per_minute", image.reads, 1)


def _check_limit(
    account: TextAccount | ImageAccount, variable: str, entry: str, limit: float, largest: int
) -> None:
    """Check one limit, which people know by its variable, or by its entry in `PROVIDERS_FILE`."""
    if count_carried_calls(limit, largest) < 1:
        name = f"{entry} of account {account.name}" if account.from_file else variable
        raise Unavailable(
            f"{name} is {limit:g} a minute, and one call needs up to {largest}: ask the provider"
            " for a higher limit"
        )


async def _open_text(
    account: TextAccount, stack: AsyncExitStack, burst_s: float
) -> OpenAITextProvider:
    client = await stack.enter_async_context(create_text_client(account))
    limiter = ProviderLimiter(
        provider=account.name,
        model=account.model,
        endpoint=account.endpoint,
        limits={"requests": account.requests, "tokens": account.tokens},
        largest_call={"tokens": largest_call_tokens(account)},
        burst_s=burst_s,
        floor=account.floor,
        serves=Need.TEXT,
    )
    return OpenAITextProvider(client, account, limiter)


async def _open_images(
    accounts: tuple[ImageAccount, ...], stack: AsyncExitStack, burst_s: float
) -> list[ReplicateImageProvider]:
    if not accounts:
        return []
    http = await stack.enter_async_context(httpx.AsyncClient(timeout=30, follow_redirects=True))
    providers = []
    for account in accounts:
        client = create_client(account)
        stack.push_async_callback(close_client, client)
        providers.append(
            ReplicateImageProvider(
                client,
                http,
                account,
                limiter=_image_limiter(account, burst_s, requests=account.requests),
                read_limiter=_image_limiter(account, burst_s, reads=account.reads),
            )
        )
    return providers


def _image_limiter(account: ImageAccount, burst_s: float, **limits: float) -> ProviderLimiter:
    return ProviderLimiter(
        provider=account.name,
        model=account.model,
        endpoint=account.endpoint,
        limits=limits,
        burst_s=burst_s,
        serves=Need.IMAGES,
    )
