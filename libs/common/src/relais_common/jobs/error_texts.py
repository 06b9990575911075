"""Cleans error messages of engines, libraries and servers for clients."""

from __future__ import annotations

import re

MAX_LENGTH = 1000
_READ = 4 * MAX_LENGTH
"""Number of characters of a text that are examined."""

_CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_TRACEBACK = re.compile(r"Traceback \(most recent call last\).*", re.DOTALL)
_CHANGES = (
    # <class 'list'>, <function f at 0x7f...>, <Foo object at 0x7f...>
    (re.compile(r"<class '[\w.]{1,200}'>|<[\w. ]{1,200} at 0x[0-9a-fA-F]+>"), "a value"),
    # File "/usr/lib/python3/x.py", line 3
    (re.compile(r'File "[^"]{0,500}", line \d+(, in \S+)?'), ""),
    # pydantic_core._pydantic_core.ValidationError:, ValueError(
    (
        re.compile(
            r"\b(?:[A-Za-z_]\w{0,99}\.){0,9}[A-Z]\w{0,99}(?:Error|Exception|Warning)\b[:(]?"
        ),
        "",
    ),
    # /usr/lib/python3/x.py, /root/models, C:\\models
    (
        re.compile(
            r"(?<![\w/:.])(?:/(?:usr|home|root|opt|tmp|var|etc|mnt|srv|app|proc|sys|models|workspace"
            r"|Users|private)(?:/[^\s'\",;:()]*)+|[A-Za-z]:\\[^\s'\",;]*|/[^\s'\",;:()]*\.(?:py|so|pyx|cpp|cu|h))"
        ),
        "a file",
    ),
    # vllm/v1/engine.py
    (re.compile(r"\b[\w-]{1,99}(?:/[\w.-]{1,99}){1,20}\.(?:py|so|pyx|cpp|cu)\b"), "a file"),
    # A key that a server echoes.
    (
        re.compile(r"\b(?:sk|pk|hf|gsk|glpat|xai)[-_][\w*-]{6,}|\bBearer\s+\S+", re.IGNORECASE),
        "a key",
    ),
)
_SPACES = re.compile(r" {2,}")


def cleaned(text: str) -> str:
    """Return the text on one line of at most `MAX_LENGTH` characters, without class names, file paths or keys."""
    text = _TRACEBACK.sub("", text[:_READ])
    text = _CONTROLS.sub(" ", text)
    for pattern, instead in _CHANGES:
        text = pattern.sub(instead, text)
    text = _SPACES.sub(" ", text).strip()
    return text if len(text) <= MAX_LENGTH else text[: MAX_LENGTH - 3].rstrip() + "..."
