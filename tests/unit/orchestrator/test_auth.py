"""Keys and signed tokens."""

from __future__ import annotations

import hmac
from typing import Any

import pytest

from relais_common.config.api_keys import ApiKey, digest
from relais_common.jobs.errors import KeyRevoked, Unauthorized
from relais_orchestrator.access.auth import ANONYMOUS, EventsUrlSigner, KeyRing
from relais_testing.clock import Clock


def api_key(key: str, *, admin: bool = False) -> ApiKey:
    return ApiKey(digests=(digest(key),), admin=admin)


KEYS = {"one": api_key("key-of-one"), "two": api_key("key-of-two")}


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_key_tells_its_client() -> None:
    ring = KeyRing(KEYS, any_token=False)
    callers = [ring.identify(bearer(key)) for key in ("key-of-one", "key-of-two")]
    assert [caller.key_id for caller in callers] == ["one", "two"]
    assert ring.identify("bearer   key-of-one ").key_id == "one"


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "key-of-one",
        "Basic key-of-one",
        "Bearer key",
        "Bearer é\udcff",
    ],
)
def test_anything_else_is_unauthorized_outside_dev(authorization: str | None) -> None:
    with pytest.raises(Unauthorized) as caught:
        KeyRing(KEYS, any_token=False).identify(authorization)
    assert (caught.value.status, caught.value.code) == (401, "invalid_api_key")
    assert "key-of" not in caught.value.message


def test_a_key_may_come_as_anthropic_s_clients_send_it() -> None:
    ring = KeyRing(KEYS, any_token=False)
    assert ring.identify(None, "key-of-one").key_id == "one"
    # With both, there is one answer.
    assert ring.identify(bearer("key-of-two"), "key-of-one").key_id == "two"
    for wrong in ("key", "", "Bearer key-of-one"):
        with pytest.raises(Unauthorized):
            ring.identify(None, wrong)
    dev = KeyRing(KEYS, any_token=True)
    assert dev.identify(None, "any").key_id == dev.identify(bearer("any")).key_id != ANONYMOUS


def test_dev_takes_no_token_or_any_and_tells_them_apart() -> None:
    ring = KeyRing(KEYS, any_token=True)
    assert ring.identify(None).key_id == ring.identify("").key_id == ANONYMOUS
    assert ring.identify(bearer("key-of-one")).key_id == "one"
    first, second = (ring.identify(bearer(token)).key_id for token in ("any", "other"))
    assert first != second
    assert first == ring.identify(bearer("any")).key_id
    assert "any" not in first
    with pytest.raises(Unauthorized):
        ring.identify("Basic any")


def test_one_comparison_in_constant_time_whichever_key_comes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    compared: list[bytes] = []
    genuine = hmac.compare_digest

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return genuine(left, right)

    monkeypatch.setattr(hmac, "compare_digest", compare)
    ring = KeyRing({f"client{n}": api_key(f"key{n}") for n in range(5)}, any_token=False)
    for key in ("key0", "key4"):
        compared.clear()
        ring.identify(bearer(key))
        assert compared == [digest(key)]
    compared.clear()
    with pytest.raises(Unauthorized):
        ring.identify(bearer("unknown"))
    assert len(compared) == 1


def test_key_ring_keeps_no_key_in_clear() -> None:
    ring = KeyRing(KEYS, any_token=False)
    assert "key-of-one" not in repr(vars(ring))
    assert digest("key-of-one").hex() not in repr(ring.identify(bearer("key-of-one")))


def test_client_may_have_several_keys() -> None:
    both = ApiKey(digests=(digest("old"), digest("new")))
    ring = KeyRing({"one": both}, any_token=False)
    assert [ring.identify(bearer(key)).key_id for key in ("old", "new")] == ["one", "one"]


def test_admins_are_the_keys_that_say_so() -> None:
    ring = KeyRing(
        {"one": api_key("key-one"), "ops": api_key("key-ops", admin=True)}, any_token=False
    )
    found = [ring.identify(bearer(key)) for key in ("key-one", "key-ops")]
    assert [(one.key_id, one.may.admin) for one in found] == [("one", False), ("ops", True)]


@pytest.mark.parametrize("authorization", [None, bearer("any")])
def test_dev_without_a_file_of_keys_has_admins_only(authorization: str | None) -> None:
    assert KeyRing(None, any_token=True).identify(authorization).may.admin


@pytest.mark.parametrize("authorization", [None, bearer("any"), bearer("key-of-one")])
def test_dev_with_a_file_has_no_admins_but_those_it_names(authorization: str | None) -> None:
    # A client may even be called as the one without a key is.
    keys = KEYS | {ANONYMOUS: api_key("key-ops", admin=True)}
    ring = KeyRing(keys, any_token=True)
    assert not ring.identify(authorization).may.admin
    assert ring.identify(bearer("key-ops")).may.admin
    # The last key's end must not make everybody an operator.
    ring.replace({})
    assert not ring.identify(authorization).may.admin


def test_replaced_keys_are_good_at_once_and_those_before_no_more() -> None:
    ring = KeyRing(KEYS, any_token=False)
    one, two = (ring.identify(bearer(key)) for key in ("key-of-one", "key-of-two"))
    ring.replace({"one": api_key("another"), "two": api_key("key-of-two", admin=True)})
    assert ring.identify(bearer("another")).key_id == "one"
    assert ring.identify(bearer("key-of-two")).may.admin
    ring.check(two)
    with pytest.raises(KeyRevoked):
        ring.check(one)
    with pytest.raises(Unauthorized):
        ring.identify(bearer("key-of-one"))
    ring.check_client("one")
    ring.replace({})
    for client in ("one", "two"):
        with pytest.raises(KeyRevoked):
            ring.check_client(client)


def test_key_that_went_to_another_client_opens_nothing_of_the_first() -> None:
    ring = KeyRing(KEYS, any_token=False)
    one = ring.identify(bearer("key-of-one"))
    ring.replace({"other": KEYS["one"]})
    with pytest.raises(KeyRevoked):
        ring.check(one)


def test_dev_s_strangers_are_never_revoked() -> None:
    ring = KeyRing(KEYS, any_token=True)
    stranger, named = ring.identify(bearer("any")), ring.identify(bearer("key-of-one"))
    ring.replace({})
    ring.check(stranger)
    ring.check_client(stranger.key_id)
    with pytest.raises(KeyRevoked):
        ring.check(named)


@pytest.fixture
def clock() -> Clock:
    return Clock(1_000_000.0)


@pytest.fixture
def signer(clock: Clock) -> EventsUrlSigner:
    return EventsUrlSigner(b"secret", ttl_s=60, clock=clock)


def test_token_opens_its_channel_until_it_runs_out(signer: EventsUrlSigner, clock: Clock) -> None:
    token = signer.sign("channel")
    assert signer.opens(token, "channel")
    clock.now_s += 60
    assert signer.opens(token, "channel")
    clock.now_s += 1
    assert not signer.opens(token, "channel")


def test_token_opens_no_other_channel(signer: EventsUrlSigner) -> None:
    token = signer.sign("channel")
    assert not signer.opens(token, "channe")
    assert not signer.opens(token, "other")
    assert not signer.opens(token, "channel\n1")


def test_token_of_another_secret_opens_nothing(signer: EventsUrlSigner, clock: Clock) -> None:
    other = EventsUrlSigner(b"other", ttl_s=60, clock=clock)
    assert not signer.opens(other.sign("channel"), "channel")


def test_two_orchestrators_with_one_secret_know_each_others_tokens(
    signer: EventsUrlSigner, clock: Clock
) -> None:
    twin = EventsUrlSigner(b"secret", ttl_s=5, clock=clock)
    assert twin.opens(signer.sign("channel"), "channel")


def test_changed_token_opens_nothing(signer: EventsUrlSigner) -> None:
    token = signer.sign("channel")
    expires, _, signature = token.partition(".")
    for changed in (
        f"{int(expires) + 1}.{signature}",
        f"0{expires}.{signature}x",
        f"{expires}.{signature[:-1]}",
        f"{expires}.{signature.swapcase()}",
        f"{expires}.",
        expires,
        f" {token}",
    ):
        assert not signer.opens(changed, "channel"), changed


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "x",
        "1",
        "-1.x",
        "٣.x",
        "1e3.x",
        "9" * 5000 + ".x",
        "1.\udcff",
        "nan.x",
        "1.é",
    ],
)
def test_garbage_opens_nothing(signer: EventsUrlSigner, token: Any) -> None:
    assert not signer.opens(token, "channel")
