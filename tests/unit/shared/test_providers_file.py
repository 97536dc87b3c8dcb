"""`PROVIDERS_FILE` is read, and what is wrong with it is named in one line."""

from pathlib import Path

import pytest

from shared.domain.errors import Unavailable
from shared.domain.providers_file import load_providers_file

GOOD = """
[[text]]
name = "main"
key = "OPENAI_API_KEY"
model = "gpt-4o-mini"
requests_per_minute = 500
tokens_per_minute = 200_000

[[text]]
name = "own-server"
key = "OWN_SERVER_KEY"
base_url = "http://10.0.0.7:8000/v1"
api = "chat"
model = "llama-3.1-70b"
requests_per_minute = 60
tokens_per_minute = 100_000
input_price = 0.0
output_price = 0.0
fallback = 1

[[image]]
name = "flux"
key = "REPLICATE_API_TOKEN"
model = "black-forest-labs/flux-schnell"
requests_per_minute = 600

[stores]
"pinned-shop" = "own-server"
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "providers.toml"
    path.write_text(text)
    return path


def test_file_lists_accounts_models_and_pinned_stores(tmp_path: Path) -> None:
    file = load_providers_file(write(tmp_path, GOOD))
    assert file.models == ("gpt-4o-mini", "llama-3.1-70b")
    assert [account.fallback for account in file.text] == [0, 1]
    assert file.image[0].reads_per_minute == 3_000
    assert file.stores == {"pinned-shop": "own-server"}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "flux"', 'name = "main"', "the file: two accounts are named 'main'"),
        ("requests_per_minute = 60\n", "", "text 2, requests_per_minute: Field required"),
        ("= 60\n", "= 0\n", "text 2, requests_per_minute: Input should be greater than 0"),
        ("fallback = 1", "fallbak = 1", "text 2, fallbak: Extra inputs are not permitted"),
        ("fallback = 1", "floor = 1", "text 2, floor: Input should be less than or equal to 0.9"),
        ('"OWN_SERVER_KEY"', '"sk-secret"', "text 2, key: String should match pattern"),
        ("[[text]]", "[[texts]]", "text: Field required"),
        ("[[text]]", "[[text", "cannot be read"),
    ],
)
def test_wrong_file_is_named_in_one_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(Unavailable) as error:
        load_providers_file(write(tmp_path, GOOD.replace(old, new)))
    assert "\n" not in str(error.value)
    assert message in str(error.value)
    assert "sk-secret" not in str(error.value)


def test_pinned_store_needs_a_text_account(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="'pinned-shop' is pinned to 'flux'"):
        load_providers_file(write(tmp_path, GOOD.replace('shop" = "own-server"', 'shop" = "flux"')))


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"none\.toml cannot be read"):
        load_providers_file(tmp_path / "none.toml")
