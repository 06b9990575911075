"""Keys and signed tokens."""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from relais_common.errors import SettingsError, Unauthorized
from relais_orchestrator.auth import (
    ANONYMOUS,
    ApiKey,
    Caller,
    EventsUrlSigner,
    KeyRing,
    read_api_keys,
)

KEYS = {"one": ApiKey("key-of-one"), "two": ApiKey("key-of-two")}


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_key_tells_its_client() -> None:
    ring = KeyRing(KEYS, any_token=False)
    callers = [ring.identify(bearer(one.key)) for one in KEYS.values()]
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


def test_every_key_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = {f"client{number}": ApiKey(f"key{number}") for number in range(5)}
    ring = KeyRing(keys, any_token=False)
    for key in ("key0", "key4"):
        compared.clear()
        ring.identify(bearer(key))
        assert len(compared) == 5
    compared.clear()
    with pytest.raises(Unauthorized):
        ring.identify(bearer("unknown"))
    assert len(compared) == 5


def test_key_ring_keeps_no_key_in_clear() -> None:
    assert "key-of-one" not in repr(vars(KeyRing(KEYS, any_token=False)))
    assert "key-of-one" not in repr(KEYS)


def test_admins_are_the_keys_that_say_so() -> None:
    ring = KeyRing(
        {"one": ApiKey("key-one"), "ops": ApiKey("key-ops", admin=True)}, any_token=False
    )
    assert ring.identify(bearer("key-one")) == Caller("one", admin=False)
    assert ring.identify(bearer("key-ops")) == Caller("ops", admin=True)


@pytest.mark.parametrize("authorization", [None, bearer("any")])
def test_dev_without_keys_has_admins_only(authorization: str | None) -> None:
    assert KeyRing({}, any_token=True).identify(authorization).admin


@pytest.mark.parametrize("authorization", [None, bearer("any"), bearer("key-of-one")])
def test_dev_with_keys_has_no_admins_but_those_it_names(authorization: str | None) -> None:
    # A client may even be called as the one without a key is.
    keys = KEYS | {ANONYMOUS: ApiKey("key-ops", admin=True)}
    ring = KeyRing(keys, any_token=True)
    assert not ring.identify(authorization).admin
    assert ring.identify(bearer("key-ops")).admin


def test_key_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    content = {
        "one": "key-of-one",
        "two": {"key": "key-of-two"},
        "ops": {"key": "key-of-ops", "admin": True},
        "no": {"key": "key-of-no", "admin": False},
    }
    path.write_text(json.dumps(content))
    assert read_api_keys(path) == KEYS | {
        "ops": ApiKey("key-of-ops", admin=True),
        "no": ApiKey("key-of-no"),
    }


@pytest.mark.parametrize(
    "content",
    [
        "s3cr3t",
        '{"one": "s3cr3t"',
        "[]",
        "{}",
        '["s3cr3t"]',
        '{"one": {"s3cr3t": 1}}',
        '{"one": ""}',
        '{"one": {}}',
        '{"one": {"key": "s3cr3t", "admin": 1}}',
        '{"one": {"key": "s3cr3t", "admin": "true"}}',
        '{"one": {"key": "s3cr3t", "admin": null}}',
        '{"one": {"key": "s3cr3t", "amdin": true}}',
        '{"one": {"key": "", "admin": true}}',
        '{"one": {"key": ["s3cr3t"], "admin": true}}',
        '{"one": {"admin": true}, "two": "s3cr3t"}',
        '{"one": null, "two": "s3cr3t"}',
        '{"": "s3cr3t"}',
        '{"a b": "s3cr3t"}',
        '{"a\\n": "s3cr3t"}',
        '{"%s": "s3cr3t"}' % ("x" * 129),
    ],
)
def test_wrong_key_file_names_the_setting_and_prints_no_key(tmp_path: Path, content: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(content)
    with pytest.raises(SettingsError) as caught:
        read_api_keys(path)
    assert str(caught.value).startswith("API_KEYS: ")
    assert str(path) in str(caught.value)
    assert "s3cr3t" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_missing_key_file_names_the_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"^API_KEYS: cannot read .*: No such file"):
        read_api_keys(tmp_path / "nothing.json")
    with pytest.raises(SettingsError, match=r"^API_KEYS: cannot read"):
        read_api_keys(tmp_path)


class Clock:
    now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def clock() -> Clock:
    return Clock()


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
