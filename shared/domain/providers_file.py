"""Reads `PROVIDERS_FILE`: the provider accounts, the models to choose from, and pinned stores.

docs/operations.md shows an example. Keys are never in the file: each account names the environment
variable that holds its key.
"""

import tomllib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from shared.domain.errors import Unavailable

_Name = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]{0,31}$")]
_Variable = Annotated[str, Field(pattern=r"^[A-Z][A-Z0-9_]*$")]
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
_Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


_MAX_ACCOUNTS = 16
"""The state of all quotas must fit into the metadata of one Kafka offset, 4,096 bytes."""


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())


class _AccountEntry(_Entry):
    name: _Name
    """Names the account in quotas, reports, metrics and logs."""
    key: _Variable
    """The environment variable that holds the key."""
    base_url: str | None = None
    model: Annotated[str, Field(min_length=1, max_length=200)]
    requests_per_minute: _Positive
    weight: _Positive = 1.0
    """Its part of the calls while several accounts have a permit at once."""
    fallback: Annotated[int, Field(ge=0)] = 0
    """Accounts with a higher number are used while no lower one serves."""
    timeout_s: _Positive | None = None


class TextAccountEntry(_AccountEntry):
    """A `[[text]]` table. Prices are US dollars for a million tokens."""

    api: Literal["responses", "chat", "auto"] = "auto"
    api_version: str | None = None
    """Of Azure OpenAI."""
    tokens_per_minute: _Positive
    input_price: _Price | None = None
    output_price: _Price | None = None
    reasoning_effort: str | None = None
    reasoning_tokens: Annotated[int, Field(ge=0)] | None = None
    store: bool = False
    floor: Annotated[float, Field(ge=0, le=0.9)] | None = None
    """Replaces `ACCOUNT_FLOOR` for this account."""
    only_on_request: bool = False
    """Write only for jobs that ask for this model, and for stores that are pinned here."""


class ImageAccountEntry(_AccountEntry):
    """An `[[image]]` table. The price is US dollars for one image."""

    reads_per_minute: _Positive = 3_000
    price: _Price | None = None


class ProvidersFile(_Entry):
    """The content of the file."""

    text: Annotated[tuple[TextAccountEntry, ...], Field(min_length=1)]
    image: tuple[ImageAccountEntry, ...] = ()
    stores: dict[str, _Name] = {}
    """The text account of each pinned store."""

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [account.name for account in (*self.text, *self.image)]
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if len(names) > _MAX_ACCOUNTS:
            raise ValueError(f"more than {_MAX_ACCOUNTS} accounts")
        if repeated:
            raise ValueError(f"two accounts are named {repeated[0]!r}")
        texts = {account.name for account in self.text}
        for store, account in self.stores.items():
            if account not in texts:
                raise ValueError(f"store {store!r} is pinned to {account!r}, which no text has")
        if all(account.only_on_request for account in self.text):
            raise ValueError("every text account is only_on_request: no job could be written")
        return self

    @property
    def models(self) -> tuple[str, ...]:
        """The models that a job may ask for, in the order of the file."""
        return tuple(dict.fromkeys(account.model for account in self.text))

    @property
    def pinned_models(self) -> dict[str, str]:
        """The model of each pinned store's account."""
        models = {account.name: account.model for account in self.text}
        return {store: models[account] for store, account in self.stores.items()}


def load_providers_file(path: Path) -> ProvidersFile:
    """Read the file. Raises `Unavailable` with one line that names each entry at fault."""
    try:
        content = tomllib.loads(path.read_text("utf-8"))
        return ProvidersFile.model_validate(content)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise Unavailable(f"PROVIDERS_FILE {path} cannot be read: {error}") from None
    except ValidationError as error:
        faults = "; ".join(
            f"{_place(fault['loc'])}: {fault['msg'].removeprefix('Value error, ')}"
            for fault in error.errors(include_url=False)
        )
        raise Unavailable(f"PROVIDERS_FILE {path} is not right: {faults}") from None


def _place(location: Iterable[int | str]) -> str:
    """Name an entry as a person counts: `text 2, model`."""
    parts = [str(part + 1) if isinstance(part, int) else part for part in location]
    if len(parts) > 1 and parts[0] in ("text", "image"):
        parts[:2] = [f"{parts[0]} {parts[1]}"]
    return ", ".join(parts) or "the file"
