"""A prediction is read in every form: outputs, statuses and ids."""

import base64
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sandbox.providers.content.image import draw_image
from services.generator.providers.replicate.image_files import decode_data_uri
from services.generator.providers.replicate.prediction import (
    find_image_source,
    has_ended,
    may_have_run,
    parse_id,
    parse_view,
    prediction_path,
)
from tests.support.json_values import json_values

API = "https://api.replicate.com"
URL = "https://replicate.delivery/xezq/out-0.png"
PNG = draw_image("a teapot")
BASE64 = base64.b64encode(PNG).decode()


@pytest.mark.parametrize(
    ("output", "source"),
    [
        (URL, URL),
        (f" {URL}\n", URL),
        ([URL, "https://replicate.delivery/xezq/out-1.png"], URL),
        ([{"url": URL, "seed": 7}], URL),
        ({"image": URL}, URL),
        ({"images": [{"url": URL}], "timings": {"inference": 0.4}}, URL),
        ({"json": "https://replicate.delivery/x/meta.json", "render": {"file": URL}}, URL),
        ({"text": "a teapot on a table", "result": [[URL]]}, URL),
        (
            "https://api.replicate.com/v1/files/abc/download?expiry=1",
            "https://api.replicate.com/v1/files/abc/download?expiry=1",
        ),
        ("/v1/files/abc", f"{API}/v1/files/abc"),
        ("out/hero.webp", f"{API}/out/hero.webp"),
        ("//replicate.delivery/hero.png", "https://replicate.delivery/hero.png"),
        (f"data:image/png;base64,{BASE64}", f"data:image/png;base64,{BASE64}"),
        ([BASE64], f"data:;base64,{BASE64}"),
        (None, None),
        ("", None),
        ([], None),
        ({}, None),
        ([None, ""], None),
        (42, None),
        (True, None),
        ("a teapot on a table", None),
        ("teapot", None),
        ("ftp://example.com/hero.png", None),
        ("javascript:alert(1)", None),
        ("http://", None),
        ("https://[::1/hero.png", None),
    ],
)
def test_image_is_found_in_an_output(output: Any, source: str | None) -> None:
    assert find_image_source(output, API) == source


def test_output_of_any_depth_ends() -> None:
    deep: Any = URL
    for _ in range(2_000):
        deep = [deep]
    assert find_image_source(deep, API) is None
    assert find_image_source([["no"] * 1_000] * 1_000, API) is None


@pytest.mark.parametrize(
    ("uri", "content"),
    [
        (f"data:image/png;base64,{BASE64}", PNG),
        (f"data:;base64,{BASE64}", PNG),
        ("data:image/png;base64," + base64.urlsafe_b64encode(PNG).decode().rstrip("="), PNG),
        ("data:image/svg+xml,%3Csvg/%3E", b"<svg/>"),
        ("data:image/png;base64,???", b""),
        ("data:", b""),
    ],
)
def test_data_uri_is_decoded(uri: str, content: bytes) -> None:
    assert decode_data_uri(uri) == content


@pytest.mark.parametrize(
    ("status", "ended"),
    [
        ("starting", False),
        ("processing", False),
        ("queued", False),
        ("booting", False),
        ("", False),
        ("Succeeded", True),
        ("failed", True),
        ("canceled", True),
        ("cancelled", True),
        ("aborted", True),
    ],
)
def test_unknown_status_means_that_the_prediction_runs(status: str, ended: bool) -> None:
    assert has_ended({"status": status}) == ended


@pytest.mark.parametrize(
    ("view", "may_be_billed"),
    [
        ({"status": "starting", "started_at": None}, False),
        ({"status": "queued"}, False),
        ({"status": "aborted"}, False),
        ({"status": "aborted", "started_at": "2026-11-30T12:00:00Z"}, False),
        ({"status": "processing"}, True),
        ({"status": "canceled"}, True),
        ({"status": "canceled", "started_at": None}, False),
        ({"status": "canceled", "started_at": "2026-11-30T12:00:00Z"}, True),
        ({"status": "pondering", "started_at": None}, False),
        ({"status": "starting", "started_at": "2026-11-30T12:00:00Z"}, True),
    ],
)
def test_prediction_that_never_ran_is_not_billed(view: dict[str, Any], may_be_billed: bool) -> None:
    assert may_have_run(view) == may_be_billed


def test_id_is_quoted_in_a_path() -> None:
    assert prediction_path("../x?y") == "/v1/predictions/..%2Fx%3Fy"


@settings(max_examples=300)
@given(body=json_values())
def test_any_json_is_read(body: Any) -> None:
    parse_id(body)
    view = parse_view(body)
    source = find_image_source(body, API)
    assert source is None or source.startswith(("http://", "https://", "data:", "HTTP", "Data"))
    if view is not None:
        assert not (has_ended(view) and may_have_run(view) and view["status"] == "aborted")


@settings(max_examples=300)
@given(output=st.text())
def test_any_text_is_read(output: str) -> None:
    find_image_source([output, f"data:{output}", f"https://{output}"], API)
    decode_data_uri(f"data:{output}")
