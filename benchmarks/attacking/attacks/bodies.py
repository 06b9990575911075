"""Bodies that cost more to refuse than to send."""

from __future__ import annotations

import zlib
from functools import cache

from benchmarks.attacking.attacker import Attacker, head
from benchmarks.attacking.keys import ATTACKERS, SHUT_OUT, VECTORS
from relais_testing.process_stack import MODEL

LARGEST = 4 << 20
PATHS = ("/v1/embeddings", "/v1/chat/completions", "/v1/completions", "/v1/requests")
MORE_PATHS = ("/v1/rerank", "/v1/score")


def _filled(before: str, item: str, after: str, size: int = LARGEST - 100) -> bytes:
    count = (size - len(before) - len(after)) // (len(item) + 1)
    return (before + ",".join([item] * count) + after).encode()


@cache
def _wrong() -> tuple[tuple[str, bytes], ...]:
    """Each route with bodies of up to 4 MB that are wrong at every element."""
    vectors, chat = f'{{"model":"{VECTORS}",', f'{{"model":"{MODEL}",'
    user = chat + '"messages":[{"role":"user","content":'
    return (
        ("/v1/embeddings", _filled(vectors + '"input":[', "{}", "]}")),
        ("/v1/embeddings", _filled(vectors + '"input":[', "[1.5]", "]}")),
        ("/v1/embeddings", _filled(vectors + '"input":[', "null", "]}")),
        ("/v1/chat/completions", _filled(user + "[", "1", "]}]}")),
        ("/v1/chat/completions", _filled(user + "[", '{"type":"input_text"}', "]}]}")),
        ("/v1/chat/completions", _filled(chat + '"messages":[', "{}", "]}")),
        ("/v1/chat/completions", _filled(user + '""}],"logit_bias":{', '"a":"b"', "}}")),
        ("/v1/completions", _filled(chat + '"prompt":[', "[]", "]}")),
        ("/v1/completions", _filled(chat + '"prompt":"a","stop":[', "1", "]}")),
        ("/v1/rerank", _filled(vectors + '"query":"a","documents":[', "{}", "]}")),
        ("/v1/score", _filled(vectors + '"text_1":"a","text_2":[', "[]", "]}")),
        ("/v1/requests", _filled(chat + '"prompt":"a","params":{"stop":[', "{}", "]}}")),
        ("/v1/requests", _filled(vectors + '"input":[', "{}", "]}")),
        ("/v1/requests", _with_unknown_fields()),
    )


def _with_unknown_fields() -> bytes:
    fields = ",".join(f'"unknown-{number}":1' for number in range(220_000))
    return f'{{"model":"{MODEL}","prompt":"a",{fields}}}'.encode()


async def wrong_bodies(attacker: Attacker) -> None:
    """Bodies of 4 MB that are wrong at every element, to every route, from three keys at once."""
    await attacker.send_in_turns(_wrong(), at_once=len(ATTACKERS))


async def wrong_bodies_without_a_model(attacker: Attacker) -> None:
    """Bodies of 527 KB, wrong at every element, from a key that may use no model."""
    before, wrong = f'{{"model":"{VECTORS}","input":[', ("{}", "null", "[1.5]", "[[]]")
    bodies = [_filled(before, one, "]}", 527_000) for one in wrong]
    requests = [(path, body) for body in bodies for path in (*PATHS, *MORE_PATHS)]
    await attacker.send_in_turns(requests, keys=[SHUT_OUT], at_once=4)


async def whole_floats(attacker: Attacker) -> None:
    """Valid bodies of 900,000 token ids that are written `1.0`, from three keys at once."""
    prompt = _filled(f'{{"model":"{MODEL}","prompt":[', "1.0", "]}", 3_600_000)
    inputs = _filled(f'{{"model":"{VECTORS}","input":[', "1.0", "]}", 3_600_000)
    several = _filled(f'{{"model":"{VECTORS}","input":[', "[1.0,2.0]", "]}")
    vectors = "/v1/embeddings"
    requests = [("/v1/completions", prompt), (vectors, inputs), (vectors, several)]
    await attacker.send_in_turns(requests, at_once=len(ATTACKERS))


@cache
def _bomb() -> bytes:
    """1 GiB of zeros in about a megabyte: a block that refers to no other, again and again, and no end."""
    deflate = zlib.compressobj(9)
    first, block = (
        deflate.compress(bytes(1 << 20)) + deflate.flush(zlib.Z_FULL_FLUSH) for _ in range(2)
    )
    return first + block * 1023


async def compressed(attacker: Attacker) -> None:
    """Twenty bodies of 1 MB at once that unpack to 1 GiB each, without a key."""
    bomb = _bomb()

    async def one(number: int) -> None:
        headers = {"Content-Encoding": "deflate"}
        await attacker.send(PATHS[number % len(PATHS)], bomb, key=None, headers=headers)

    await attacker.over_and_over(one, at_once=20, most=60)


async def tiny_chunks(attacker: Attacker) -> None:
    """Bodies of 700,000 bytes in HTTP chunks of one byte each, from three keys at once."""
    chunks = b"1\r\nx\r\n" * 700_000 + b"0\r\n\r\n"

    async def one(number: int) -> None:
        key = ATTACKERS[number % len(ATTACKERS)]
        start = head("/v1/requests", key, Transfer_Encoding="chunked")
        await attacker.raw(start + chunks, wait_s=30)

    await attacker.over_and_over(one, at_once=len(ATTACKERS))
