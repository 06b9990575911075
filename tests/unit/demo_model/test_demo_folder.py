"""The committed demo model is small, readable by any user, and carries a chat template that renders."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import jinja2
import pytest

FOLDER = Path(__file__).parents[3] / "models" / "relais-demo"
FILES = sorted(path for path in FOLDER.iterdir() if path.is_file())
LIMIT_BYTES = 10_000_000


def test_the_folder_is_complete() -> None:
    names = {path.name for path in FILES}
    assert names >= {
        "README.md",
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }


def test_the_folder_is_small() -> None:
    assert sum(path.stat().st_size for path in FILES) <= LIMIT_BYTES


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_is_0644_as_far_as_the_umask_lets_a_checkout_be(path: Path) -> None:
    umask = os.umask(0)
    os.umask(umask)
    mode = stat.S_IMODE(path.stat().st_mode)
    assert mode & 0o111 == 0
    assert mode & 0o644 == 0o644 & ~umask


def test_the_chat_template_renders() -> None:
    template = jinja2.Template((FOLDER / "chat_template.jinja").read_text(encoding="utf-8"))
    messages = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": " Bonjour ! "},
        {"role": "assistant", "content": "Bonjour."},
        {"role": "user", "content": "Merci"},
    ]
    text = template.render(messages=messages, bos_token="<|begin|>", add_generation_prompt=True)
    assert text == (
        "<|begin|><|system|>Be kind.<|end|><|user|>Bonjour !<|end|>"
        "<|assistant|>Bonjour.<|end|><|user|>Merci<|end|><|assistant|>"
    )
    closed = template.render(
        messages=messages[:2], bos_token="<|begin|>", add_generation_prompt=False
    )
    assert closed == "<|begin|><|system|>Be kind.<|end|><|user|>Bonjour !<|end|>"


def test_the_special_tokens_of_the_template_are_tokens() -> None:
    tokenizer = json.loads((FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))
    assert {"<|begin|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>"} <= set(added)
    assert {"<think>", "</think>", "<tool_call>", "</tool_call>"} <= set(added)
    assert config["vocab_size"] == max(added.values()) + 1
    assert config["eos_token_id"] == added["<|end|>"]


def test_the_card_says_what_it_is() -> None:
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "It is a toy" in card
    assert "Held-out scores" in card
