"""The provider accounts of the environment variables, and the prices of their models."""

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from services.generator.providers.accounts.account import ProviderAccounts, accounts_from_settings
from services.generator.settings import GeneratorSettings
from shared.domain.errors import Unavailable

_REQUIRED: dict[str, Any] = {
    "kafka_bootstrap_servers": "kafka:9092",
    "database_url": "postgresql://a:b@c/d",
    "openai_api_key": "sk-x",
}


def accounts_of(**changes: Any) -> ProviderAccounts:
    values = _REQUIRED | {"replicate_api_token": "r8-x"} | changes
    return accounts_from_settings(GeneratorSettings.model_validate(values))


@pytest.mark.parametrize(
    ("changes", "prices"),
    [
        ({}, (0.15, 0.60)),
        ({"openai_model": "gpt-4o-mini-2024-07-18"}, (0.15, 0.60)),
        ({"openai_model": "gpt-5-mini"}, (0.25, 2.0)),
        ({"openai_base_url": "http://127.0.0.1:3901/v1"}, (0.15, 0.60)),
        (
            {
                "openai_model": "openai/gpt-4o-mini",
                "openai_base_url": "https://openrouter.ai/api/v1",
            },
            (0.15, 0.60),
        ),
        (
            {"openai_model": "deepseek-chat", "openai_base_url": "https://api.deepseek.com/v1"},
            (0.27, 1.10),
        ),
        (
            {
                "openai_model": "anthropic/claude-sonnet-4-5",
                "openai_base_url": "http://litellm:4000",
            },
            (3.0, 15.0),
        ),
        ({"openai_input_price": 0}, (0.0, 0.60)),
        ({"openai_output_price": 9}, (0.15, 9.0)),
        (
            {"openai_model": "my-model", "openai_input_price": 0, "openai_output_price": 0},
            (0.0, 0.0),
        ),
    ],
)
def test_prices_of_texts_are_listed_unless_set(
    changes: dict[str, Any], prices: tuple[float, float]
) -> None:
    (account,) = accounts_of(**changes).texts
    assert (account.prices.input_usd, account.prices.output_usd) == pytest.approx(prices)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"openai_model": "my-model"},
            "the price of OPENAI_MODEL my-model is not known: set OPENAI_INPUT_PRICE and"
            " OPENAI_OUTPUT_PRICE (US dollars for a million tokens; 0 for a model that costs"
            " nothing)",
        ),
        (
            {"openai_model": "my-model", "openai_input_price": 1, "standin": True},
            "the price of OPENAI_MODEL my-model is not known: set OPENAI_OUTPUT_PRICE (US dollars"
            " for a million tokens; 0 for a model that costs nothing)",
        ),
        (
            {"replicate_model": "stability-ai/sdxl"},
            "the price of REPLICATE_MODEL stability-ai/sdxl is not known: set REPLICATE_PRICE (US"
            " dollars for one image; 0 for a model that costs nothing)",
        ),
    ],
)
def test_unknown_price_is_refused_with_its_variables(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(Unavailable) as refused:
        accounts_of(**changes)
    assert str(refused.value) == line


def test_price_of_an_image() -> None:
    assert accounts_of().images[0].prices.image_usd == 0.003
    other = accounts_of(replicate_model="stability-ai/sdxl", replicate_price=0.01)
    assert other.images[0].prices.image_usd == 0.01


@pytest.mark.parametrize("word", ["off", "false", "no", "0"])
def test_images_off_needs_no_token_and_has_no_account(word: str) -> None:
    assert accounts_of(replicate_api_token=None, images=word).images == ()
    assert accounts_of(images=word).images == ()


def test_token_is_required_with_images(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="unless IMAGES=off"):
        GeneratorSettings.model_validate(_REQUIRED)
    for name, value in _REQUIRED.items():
        monkeypatch.setenv(name.upper(), value)
    monkeypatch.delenv("REPLICATE_API_TOKEN", raising=False)
    with pytest.raises(Unavailable) as refused:
        GeneratorSettings.from_environment()
    assert str(refused.value) == (
        "the environment is not right: REPLICATE_API_TOKEN: field required unless IMAGES=off"
        " (see docs/configuration.md)"
    )


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({}, ()),
        ({"standin": True}, ("openai", "replicate")),
        ({"standin": True, "standins": "replicate"}, ("replicate",)),
        ({"standins": "openai, replicate"}, ("openai", "replicate")),
    ],
)
def test_stand_ins_have_names(changes: dict[str, Any], names: tuple[str, ...]) -> None:
    settings = GeneratorSettings.model_validate(
        _REQUIRED | {"replicate_api_token": "r8-x"} | changes
    )
    assert settings.standin_names() == names


def test_account_floor_is_set_for_all_accounts_or_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (account,) = accounts_of(account_floor=0.1).texts
    assert account.floor == 0.1
    entry = """
        [[text]]
        name = "NAME"
        key = "FLOOR_KEY"
        model = "gpt-4o-mini"
        requests_per_minute = 500
        tokens_per_minute = 200_000
        """
    file = tmp_path / "providers.toml"
    file.write_text(entry.replace("NAME", "a") + entry.replace("NAME", "b") + "floor = 0.5")
    monkeypatch.setenv("FLOOR_KEY", "sk-x")
    texts = accounts_of(account_floor=0.1, providers_file=file).texts
    assert [account.floor for account in texts] == [0.1, 0.5]
