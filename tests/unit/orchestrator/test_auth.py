"""Keys and signed tokens."""

from __future__ import annotations

import hmac
import json
from pathlib import Path
from typing import Any

import pytest

from relais_common.errors import SettingsError, Unauthorized
from relais_orchestrator.auth import ANONYMOUS, EventsUrlSigner, KeyRing, read_api_keys

KEYS = {"one": "key-of-one", "two": "key-of-two"}


def bearer(key: str) -> str:
    return f"Bearer {key}"


def test_key_tells_its_client() -> None:
    ring = KeyRing(KEYS, any_token=False)
    assert [ring.identify(bearer(key)) for key in KEYS.values()] == ["one", "two"]
    assert ring.identify("bearer   key-of-one ") == "one"


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
    assert ring.identify(None) == ring.identify("") == ANONYMOUS
    assert ring.identify(bearer("key-of-one")) == "one"
    first, second = ring.identify(bearer("any")), ring.identify(bearer("other"))
    assert first != second
    assert first == ring.identify(bearer("any"))
    assert "any" not in first
    with pytest.raises(Unauthorized):
        ring.identify("Basic any")


def test_every_key_is_compared_whichever_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[bytes] = []

    def compare(left: bytes, right: bytes) -> bool:
        compared.append(right)
        return left == right

    monkeypatch.setattr(hmac, "compare_digest", compare)
    keys = {f"client{number}": f"key{number}" for number in range(5)}
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


def test_key_file_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text(json.dumps(KEYS))
    assert read_api_keys(path) == KEYS


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
