"""Webhook signatures, allowed targets, capacity for slow stores, and retries."""

from collections import Counter
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.webhooks import rules
from services.ingest.webhooks.rules import AttemptOutcome, ForbiddenTargetError


def test_signature_matches_the_standard() -> None:
    """The example of the Standard Webhooks specification."""
    secret, message = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek"
    signature = "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="
    assert rules.sign([secret], message, 1614265330, b'{"test": 2432232314}') == signature
    both = rules.sign([secret, "whsec_AAAA"], message, 1614265330, b'{"test": 2432232314}').split(
        " "
    )
    assert both[0] == signature != both[1]
    assert both[1].startswith("v1,")
    with pytest.raises(ValueError, match="whsec_"):
        rules.sign(["whsec_nonsense!"], message, 1, b"")


def resolve_target(url: str, *addresses: str, loopback: bool = False) -> Sequence[str]:
    target = rules.parse_target(url, loopback=loopback)
    return rules.pinned_addresses(target, addresses, loopback=loopback)


def test_public_host_is_pinned_to_its_addresses() -> None:
    both = ("93.184.216.34", "2606:2800:220:1::1")
    assert resolve_target("https://shop.example/hook", *both) == both
    assert len(resolve_target("https://shop.example:8443", *both * 5)) == 3, (
        "an attempt tries at most three"
    )
    for url, host, port in (
        ("https://shop.example:8443/x", "shop.example", 8443),
        ("HTTPS://Shop.Example/", "shop.example", 443),
        ("https://bücher.example/", "xn--bcher-kva.example", 443),
        ("https://Straße.example/", "xn--strae-oqa.example", 443),
        ("https://βόλος.example/", "xn--nxasmm1c.example", 443),
        ("https://93.184.216.34", "93.184.216.34", 443),
        ("https://[2606:2800:220:1::1]:444/", "2606:2800:220:1::1", 444),
        ("https://shop.example./", "shop.example.", 443),
    ):
        target = rules.parse_target(url, loopback=False)
        assert (target.host, target.port, target.scheme) == (host, port, "https")
        assert httpx.URL(url).raw_host.decode() == host, "httpx connects to the same host"


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.0.0.1",
        "172.16.0.1",
        "192.168.1.1",
        "169.254.169.254",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "::1",
        "::",
        "fe80::1",
        "fe80::1%eth0",
        "fc00::1",
        "fec0::1",
        "ff02::1",
        "::ffff:127.0.0.1",
        "::ffff:10.0.0.1",
        "2002:7f00:1::",
        "64:ff9b::7f00:1",
        "64:ff9b:1::a00:1",
        "2001:db8::1",
        "::127.0.0.1",
        "::10.0.0.1",
        "::ffff:0:10.0.0.1",
        "3fff::1",
        "5f00::1",
        "4000::1",
        "192.88.99.1",
        "192.0.0.8",
        "2001::7f00:1",
        "2001:10::1",
        "100::1",
        "198.18.0.1",
        "240.0.0.1",
    ],
)
def test_non_public_address_is_refused_even_among_public_ones(address: str) -> None:
    for addresses in ((address,), ("93.184.216.34", address)):
        with pytest.raises(ForbiddenTargetError) as refused:
            resolve_target("https://shop.example/hook", *addresses)
        assert str(refused.value) == rules.NOT_PUBLIC, "the store sees no address"
        assert refused.value.internal_detail is not None
        assert refused.value.internal_detail.startswith("shop.example is ")


@pytest.mark.parametrize(
    "url",
    [
        "http://shop.example",
        "ftp://shop.example",
        "https://u:p@shop.example",
        "https:///x",
        "https://shop.example:99999/",
        "https://shop.example:abc/",
        "https://shop.example:0/",
        "https://[::1/",
        "https://a..b/",
        "https://.example/",
        "https://-a.example/",
        f"https://{'a' * 64}.example/",
        f"https://{'a.' * 126}ab/",
        "https://shop.example%2f.evil/",
        "https://shop\\.example/",
        "https://10.0.0.1/",
        "https://127.0.0.1:8443/",
        "https://[::1]/",
        "https://[fd00::1]/",
        "https://[fe80::1%25eth0]/",
        "https://2130706433/",
        "https://0x7f000001/",
        "https://127.1/",
        "https://0177.0.0.1/",
        "https://１２７.0.0.1/",
        "https://☃.example/",
    ],
)
def test_url_without_public_https_host_is_refused(url: str) -> None:
    with pytest.raises(ForbiddenTargetError):
        rules.parse_target(url, loopback=False)


def test_loopback_setting_allows_only_this_machine() -> None:
    assert resolve_target("http://localhost:80/x", "127.0.0.1", loopback=True) == ("127.0.0.1",)
    assert resolve_target("https://localhost", "::1", loopback=True) == ("::1",)
    for url, address in (
        ("http://shop.example", "93.184.216.34"),
        ("https://shop.example", "10.0.0.1"),
    ):
        with pytest.raises(ForbiddenTargetError):
            resolve_target(url, address, loopback=True)
    with pytest.raises(ForbiddenTargetError) as refused:
        resolve_target("https://shop.example")
    assert (str(refused.value), refused.value.internal_detail) == (
        rules.NOT_PUBLIC,
        "shop.example has no address",
    )


@given(
    st.integers(1, 20),
    st.sets(st.sampled_from("abcdefgh")),
    st.lists(st.sampled_from("abcdefgh"), max_size=20),
)
def test_slow_stores_get_one_send_and_leave_five_free(
    capacity: int, slow: set[str], sending: list[str]
) -> None:
    free = max(capacity - len(sending), 0)
    limit, blocked = rules.share_capacity(free, slow)
    count = Counter([*sending, *blocked])
    room = {store: max(rules.MAX_SENDS_PER_STORE - count[store], 0) for store in "abcdefgh"}
    assert all(
        room[store] == max(rules.MAX_SENDS_PER_STORE - sending.count(store), 0)
        for store in room.keys() - slow
    )
    assert all(room[store] <= 1 and (room[store] == 0 or store not in sending) for store in slow)
    if any(room[store] for store in slow):
        assert free - limit == 5, "five sends stay free"
    elif not slow or free <= 5:
        assert limit == free


def test_failed_attempt_is_retried_for_about_a_day() -> None:
    assert {
        rules.decide_next_state(AttemptOutcome(status=status), attempts=1, chance=0).state
        for status in (200, 204)
    } == {"DELIVERED"}
    for outcome in (
        AttemptOutcome(status=500),
        AttemptOutcome(status=302),
        AttemptOutcome(status=404),
        AttemptOutcome(status=None, error="away"),
    ):
        states = [
            rules.decide_next_state(outcome, attempts=number, chance=0.5) for number in range(1, 10)
        ]
        assert [state.state for state in states] == ["WAITING"] * 8 + ["FAILED"]
        pauses = [state.pause_s for state in states[:8]]
        assert pauses == sorted(pauses)
        assert 24 * 3600 < sum(pauses) < 36 * 3600
    for outcome in (
        AttemptOutcome(status=410),
        AttemptOutcome(status=None, error="no URL", final=True),
    ):
        assert rules.decide_next_state(outcome, attempts=1, chance=0).state == "FAILED"
