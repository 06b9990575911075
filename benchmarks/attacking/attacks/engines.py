"""What an engine that all share is asked to keep to."""

from __future__ import annotations

from typing import Any

from benchmarks.attacking.attacker import Attacker
from benchmarks.attacking.keys import ATTACKERS
from relais_testing.process_stack import MODEL

DEADLINE_S = 5.0


def _ask(**params: Any) -> dict[str, Any]:
    return {
        "model": MODEL,
        "messages": [{"role": "user", "content": "The lamp in our street is broken."}],
        "params": {"max_tokens": 64, **params},
    }


async def _send(
    attacker: Attacker, *bodies: dict[str, Any], at_once: int = 16, most: int = 64
) -> None:
    requests = [("/v1/requests", body) for body in bodies]
    await attacker.send_in_turns(requests, at_once=at_once, most=most)
    await attacker.rest()


def _chain(depth: int, rule: str) -> str:
    rules = [f"a{at} ::= " + rule.format(next=f"a{at + 1}") for at in range(depth)]
    return "\n".join(["root ::= a0", *rules, f'a{depth} ::= "a" | "b"'])


async def chained_grammar(attacker: Attacker) -> None:
    """Grammars of 5 KB whose rules call the next one twice, 200 deep, and other chains."""
    grammars = (
        _chain(200, "{next} {next} | {next}"),
        _chain(150, "{next} | {next} {next} | {next}"),
        _chain(120, '{next} "a" {next} | {next} | "b"'),
        _chain(100, "{next}* {next}*"),
    )
    bodies = [_ask(structured_outputs={"grammar": one}) for one in grammars]
    await _send(attacker, *bodies, at_once=2, most=8)


async def nested_regex(attacker: Attacker) -> None:
    """Regular expressions of stars within stars, and of counts within counts."""
    expressions = (
        "(" * 60 + "a*" + ")*" * 60,
        "((a{0,100}){0,100}){0,100}",
        "(a|aa|aaa|aaaa)*" * 50 + "b",
        "(a?){200}a{200}",
        "(.*.*.*.*.*.*)*x" * 10,
    )
    bodies = [_ask(structured_outputs={"regex": one}) for one in expressions]
    await _send(attacker, *bodies, at_once=2, most=10)


def _large_schema(number: int) -> dict[str, Any]:
    """Some 700 KB, never the same."""
    properties = {
        f"field_{number}_{at}": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "enum": [f"value-{at}-{one}" for one in range(10)]},
                "size": {"type": "integer", "minimum": at, "maximum": at + 1000},
            },
            "required": ["name", "size"],
            "additionalProperties": False,
        }
        for at in range(2000)
    }
    return {"type": "object", "properties": properties, "required": sorted(properties)}


async def expired_schemas(attacker: Attacker) -> None:
    """Schemas of 700 KB, each another, whose requests expire before they can be compiled."""

    async def one(number: int) -> None:
        json_schema = {"name": "large", "schema": _large_schema(number)}
        body = _ask(response_format={"type": "json_schema", "json_schema": json_schema})
        key = ATTACKERS[number % len(ATTACKERS)]
        await attacker.send("/v1/requests", {**body, "deadline_s": DEADLINE_S}, key=key)

    await attacker.over_and_over(one, at_once=2, most=6)
    await attacker.rest()


async def many_biases(attacker: Attacker) -> None:
    """Sixty-four requests at once with a `logit_bias` of 1,024 entries each."""
    bias = {str(token): -1.0 for token in range(100, 1124)}
    await _send(attacker, {**_ask(logit_bias=bias, ignore_eos=True), "deadline_s": 30})


async def many_logprobs(attacker: Attacker) -> None:
    """Long answers with the twenty likeliest tokens of every place."""
    params = {"logprobs": 20, "max_tokens": 900, "ignore_eos": True}
    await _send(attacker, {**_ask(**params), "deadline_s": 30})


async def many_stops(attacker: Attacker) -> None:
    """Sixteen long stop strings, 256 stop ids, 4,096 allowed ids and long bad words at once."""
    params = {
        "stop": [f"{number}" + "e" * 200 for number in range(16)],
        "stop_token_ids": list(range(5, 261)),
        "bad_words": [f"bad {number} " + "word " * 10 for number in range(100)],
        "ignore_eos": True,
        "max_tokens": 900,
    }
    await _send(attacker, {**_ask(**params), "deadline_s": 30})
