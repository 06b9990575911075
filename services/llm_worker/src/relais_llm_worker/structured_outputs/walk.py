"""Runs a trial: compiles a specification, then follows it for some tokens as an engine would.

Runs in a child of the trial server. A grammar that compiles quickly may need seconds for each mask, so
masks are tried too. The libraries are imported on use, because a process needs only one of them.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from relais_llm_worker.structured_outputs.specification import Budget, Library

STEPS = 48
_FIRST, _RANDOM = range(2)
WALKS = (_RANDOM, _FIRST, _RANDOM)
MAX_MESSAGE = 200
_PLACE = re.compile(r"^\[[\d:]+\] \S+:\d+: ")

TOO_COSTLY = "it is too complex: following it would take too long"
IMPOSSIBLE = "no text can satisfy it"
NOT_WITH_ALLOWED = "the tokens of allowed_token_ids cannot satisfy it"


class Refused(Exception):
    """The specification is invalid, impossible or too costly; the message says which."""


class Matcher(Protocol):
    """One request's position in a compiled specification."""

    def mask(self) -> bytes:
        """Return a bit mask of the tokens that may come next. Raises Refused if the library gives up."""
        ...

    def accept(self, token_id: int) -> bool:
        """Take a step. Returns False if nothing more may follow."""
        ...


class Compiler(Protocol):
    """A library with the model's tokenizer."""

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """Return the ids that may end an answer."""

    def compile(self, kind: str, text: str) -> Callable[[], Matcher]:
        """Return a matcher at the start of an answer. Raises Refused, or the library's own errors."""
        ...


def open_compiler(library: Library) -> Compiler:
    """Import the library and read the tokenizer."""
    return Guidance(library) if library.backend == "guidance" else Xgrammar(library)


def follow(compiler: Compiler, content: dict[str, Any], budget: Budget) -> None:
    """Compile and follow a specification. Raises Refused."""
    try:
        begin = compiler.compile(content["kind"], content["text"])
    except (ValueError, RuntimeError, TypeError) as error:
        raise Refused(_in_short(str(error))) from None
    allowed, stops = _bits(content["allowed"]), _bits(compiler.stop_token_ids)
    for seed, way in enumerate(WALKS):
        walk = _Walk(begin(), way, random.Random(seed), allowed, stops)
        for step in range(STEPS):
            began_s = time.process_time()
            goes_on = walk.step(is_first=step == 0)
            if time.process_time() - began_s > budget.step_cpu_s:
                raise Refused(TOO_COSTLY)
            if not goes_on:
                break


@dataclass(frozen=True, slots=True)
class _Walk:
    """One answer, as long as the specification allows.

    Attributes:
        allowed: bits of the only allowed tokens; 0 for all.
        stops: bits of the tokens that end it.
    """

    matcher: Matcher
    way: int
    chance: random.Random
    allowed: int
    stops: int

    def step(self, *, is_first: bool) -> bool:
        """Take one step; returns False if nothing more may follow. Raises Refused."""
        mask = self.matcher.mask()
        bits = int.from_bytes(mask, "little")
        if self.allowed:
            if bits and not bits & self.allowed:
                raise Refused(NOT_WITH_ALLOWED)
            bits &= self.allowed
        if is_first and not bits:
            raise Refused(IMPOSSIBLE)
        bits &= ~self.stops
        if not bits:
            return False
        return self.matcher.accept(_pick(bits.to_bytes(len(mask), "little"), self.way, self.chance))


def _pick(mask: bytes, way: int, chance: random.Random) -> int:
    """Pick a token whose bit is set: the first one, or one soon after a random position."""
    begin = 0 if way == _FIRST else chance.randrange(len(mask))
    rest = mask[begin:].lstrip(b"\0") or mask.lstrip(b"\0")
    bits = [bit for bit in range(8) if rest[0] >> bit & 1]
    return (len(mask) - len(rest)) * 8 + (bits[0] if way == _FIRST else chance.choice(bits))


def _bits(token_ids: Iterable[int]) -> int:
    together = 0
    for token_id in token_ids:
        together |= 1 << token_id
    return together


def _in_short(message: str) -> str:
    """Return the library's message without the source location at its start."""
    first_line = message.strip().partition("\n")[0]
    return _PLACE.sub("", first_line)[:MAX_MESSAGE] or "it cannot be compiled"


class Guidance:
    """llguidance, as vLLM uses it. It bounds the work of each step itself."""

    def __init__(self, library: Library) -> None:
        import llguidance

        self._llguidance = llguidance
        self._any_whitespace = library.any_whitespace
        self._tokenizer = llguidance.LLTokenizer(
            library.tokenizer, n_vocab=library.vocab_size, eos_token=library.eos_token_id
        )

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        return (self._tokenizer.eos_token,)

    def compile(self, kind: str, text: str) -> Callable[[], Matcher]:
        if kind == "json":
            grammar = self._llguidance.LLMatcher.grammar_from_json_schema(
                text, defaults={"whitespace_flexible": self._any_whitespace}
            )
        else:
            grammar = self._llguidance.grammar_from("grammar" if kind == "lark" else kind, text)
        # vLLM does this first, so it counts towards the budget.
        if error := self._llguidance.LLMatcher.validate_grammar(grammar, self._tokenizer):
            raise Refused(_in_short(error))
        begun = self._llguidance.LLMatcher(self._tokenizer, grammar, log_level=0)
        return lambda: _GuidanceMatcher(begun.deep_copy())


class _GuidanceMatcher:
    def __init__(self, matcher: Any) -> None:
        self._matcher = matcher

    def mask(self) -> bytes:
        mask: bytes = self._matcher.compute_bitmask()
        error: str = self._matcher.get_error()
        if "NoExtension" in error:
            return bytes(len(mask))
        if error:
            raise Refused(TOO_COSTLY)
        return mask

    def accept(self, token_id: int) -> bool:
        accepted = self._matcher.consume_token(token_id)
        if not accepted and self._matcher.stop_reason() != "NoExtensionBias":
            raise Refused(TOO_COSTLY)
        return accepted and not self._matcher.is_stopped()


class Xgrammar:
    """xgrammar, as vLLM uses it."""

    def __init__(self, library: Library) -> None:
        import xgrammar

        self._xgrammar = xgrammar
        self._any_whitespace = library.any_whitespace
        self._tokenizer = xgrammar.TokenizerInfo.deserialize_json(library.tokenizer)
        self._vocab_size = library.vocab_size

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        return tuple(self._tokenizer.stop_token_ids)

    def compile(self, kind: str, text: str) -> Callable[[], Matcher]:
        # One thread: the process was forked. CPU time is what counts, and threads share it.
        compiler = self._xgrammar.GrammarCompiler(
            self._tokenizer, max_threads=1, cache_enabled=False
        )
        match kind:
            case "json":
                compiled = compiler.compile_json_schema(
                    text,
                    any_whitespace=self._any_whitespace,
                    separators=None if self._any_whitespace else (",", ":"),
                )
            case "regex":
                compiled = compiler.compile_regex(text)
            case "lark":
                compiled = compiler.compile_lark(text)
            case "structural_tag":
                compiled = compiler.compile_structural_tag(text)
            case _:
                compiled = compiler.compile_grammar(text)
        return lambda: _XgrammarMatcher(
            self._xgrammar.GrammarMatcher(compiled),
            self._xgrammar.allocate_token_bitmask(1, self._vocab_size),
        )


class _XgrammarMatcher:
    def __init__(self, matcher: Any, bitmask: Any) -> None:
        self._matcher = matcher
        self._bitmask = bitmask

    def mask(self) -> bytes:
        self._matcher.fill_next_token_bitmask(self._bitmask, 0)
        mask: bytes = self._bitmask.numpy().tobytes()
        return mask

    def accept(self, token_id: int) -> bool:
        return self._matcher.accept_token(token_id) and not self._matcher.is_terminated()
