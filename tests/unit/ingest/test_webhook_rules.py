"""Webhooks' decisions: the signature, whom nothing is sent to, when an attempt is made again."""

from collections import Counter
from collections.abc import Sequence

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.webhooks import rules
from services.ingest.webhooks.rules import ForbiddenTargetError, Outcome


def test_the_signature_is_the_standards() -> None:
    """The specification's own example."""
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


def leads_to(url: str, *addresses: str, loopback: bool = False) -> Sequence[str]:
    return rules.pinned(rules.target(url, loopback=loopback), addresses, loopback=loopback)


def test_a_public_host_is_pinned_to_its_address() -> None:
    both = ("93.184.216.34", "2606:2800:220:1::1")
    assert leads_to("https://shop.example/hook", *both) == both
    assert len(leads_to("https://shop.example:8443", *both * 5)) == 3, "an attempt has its end"
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
        where = rules.target(url, loopback=False)
        assert (where.host, where.port, where.scheme) == (host, port, "https")
        assert httpx.URL(url).raw_host.decode() == host, "who sends means the same host"


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
def test_an_address_that_is_not_public_is_refused_even_among_public_ones(address: str) -> None:
    for addresses in ((address,), ("93.184.216.34", address)):
        with pytest.raises(ForbiddenTargetError) as refused:
            leads_to("https://shop.example/hook", *addresses)
        assert str(refused.value) == rules.NOT_PUBLIC, "the store is told no address"
        assert refused.value.known is not None
        assert refused.value.known.startswith("shop.example is ")


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
def test_a_url_that_can_lead_to_no_public_https_host_is_refused(url: str) -> None:
    with pytest.raises(ForbiddenTargetError):
        rules.target(url, loopback=False)


def test_the_setting_for_development_allows_this_machine_and_nothing_else() -> None:
    assert leads_to("http://localhost:80/x", "127.0.0.1", loopback=True) == ("127.0.0.1",)
    assert leads_to("https://localhost", "::1", loopback=True) == ("::1",)
    for url, address in (
        ("http://shop.example", "93.184.216.34"),
        ("https://shop.example", "10.0.0.1"),
    ):
        with pytest.raises(ForbiddenTargetError):
            leads_to(url, address, loopback=True)
    with pytest.raises(ForbiddenTargetError) as refused:
        leads_to("https://shop.example")
    assert (str(refused.value), refused.value.known) == (
        rules.NOT_PUBLIC,
        "shop.example has no address",
    )


@given(
    st.integers(1, 20),
    st.sets(st.sampled_from("abcdefgh")),
    st.lists(st.sampled_from("abcdefgh"), max_size=20),
)
def test_slow_stores_have_one_place_each_and_leave_five_to_the_others(
    places: int, slow: set[str], under_way: list[str]
) -> None:
    free = max(places - len(under_way), 0)
    most, held_back = rules.share(free, slow)
    count = Counter([*under_way, *held_back])
    room = {store: max(rules.OF_ONE_STORE - count[store], 0) for store in "abcdefgh"}
    assert all(
        room[store] == max(rules.OF_ONE_STORE - under_way.count(store), 0)
        for store in room.keys() - slow
    )
    assert all(room[store] <= 1 and (room[store] == 0 or store not in under_way) for store in slow)
    if any(room[store] for store in slow):
        assert free - most == 5, "what is taken now leaves five"
    elif not slow or free <= 5:
        assert most == free


def test_it_is_tried_again_for_hours_and_then_no_more() -> None:
    assert {
        rules.judge(Outcome(status=status), attempts=1, chance=0).state for status in (200, 204)
    } == {"DELIVERED"}
    for outcome in (
        Outcome(status=500),
        Outcome(status=302),
        Outcome(status=404),
        Outcome(status=None, error="away"),
    ):
        verdicts = [rules.judge(outcome, attempts=number, chance=0.5) for number in range(1, 10)]
        assert [verdict.state for verdict in verdicts] == ["WAITING"] * 8 + ["FAILED"]
        pauses = [verdict.pause_s for verdict in verdicts[:8]]
        assert pauses == sorted(pauses)
        assert 24 * 3600 < sum(pauses) < 36 * 3600
    for outcome in (Outcome(status=410), Outcome(status=None, error="no URL", final=True)):
        assert rules.judge(outcome, attempts=1, chance=0).state == "FAILED"
