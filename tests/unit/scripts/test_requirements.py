"""The lock files: all pinned, all hashed, in agreement, and silent about where they come from."""

from __future__ import annotations

import json
import re
from itertools import combinations
from pathlib import Path

import pytest

REQUIREMENTS = Path(__file__).resolve().parents[3] / "requirements"
FILES = sorted(path for path in REQUIREMENTS.rglob("*") if path.is_file())
LOCKS = sorted(
    path for path in REQUIREMENTS.rglob("*.txt") if not path.stem.startswith("overrides")
)


def pins(path: Path) -> dict[tuple[str, str], str]:
    """Package and marker, to version."""
    found = {}
    text = re.sub(r"\\\n", " ", path.read_text())
    for line in text.splitlines():
        if not line or line.lstrip().startswith("#"):
            continue
        match = re.fullmatch(
            r"([a-z0-9.-]+)==(\S+)(?: ; (.*?))?((?: +--hash=sha256:[0-9a-f]{64})+) *", line
        )
        assert match, f"{path.name}: not a pin with hashes: {line[:80]}"
        found[match[1], (match[3] or "").strip()] = match[2]
    return found


@pytest.mark.parametrize("path", LOCKS, ids=lambda path: path.name)
def test_every_requirement_is_pinned_and_hashed(path: Path) -> None:
    assert pins(path)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_address_is_named(path: Path) -> None:
    text = path.read_text()

    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text
    assert "file:" not in text


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_files_of_one_environment_agree(device: str) -> None:
    files = [
        REQUIREMENTS / f"{name}.txt"
        for name in ("services", "embedded", "embeddings", "dev", "examples", f"llm-{device}")
    ]
    if device == "cpu":
        files += [REQUIREMENTS / "openvino.txt", REQUIREMENTS / "onnx.txt"]
    for one, other in combinations(files, 2):
        ours, theirs = pins(one), pins(other)
        differing = {key for key in ours.keys() & theirs.keys() if ours[key] != theirs[key]}
        assert not differing, f"{one.name} and {other.name} differ: {differing}"


def test_cpu_environment_has_no_cuda_build() -> None:
    names = {name for name, _ in pins(REQUIREMENTS / "llm-cpu.txt")}

    assert not {name for name in names if name.startswith(("nvidia-", "torch", "triton"))}
    assert set(pins(REQUIREMENTS / "torch-cpu.txt").values()) == {"2.13.0+cpu"}


def test_every_node_package_is_pinned_and_hashed() -> None:
    packages = json.loads((REQUIREMENTS / "node" / "package-lock.json").read_text())["packages"]
    ours = packages.pop("")
    assert (
        ours["dependencies"]
        == json.loads((REQUIREMENTS / "node" / "package.json").read_text())["dependencies"]
    )
    for name, package in packages.items():
        assert re.fullmatch(r"\d+\.\d+\.\d+", package["version"]), name
        assert package["integrity"].startswith("sha512-"), name
        assert "resolved" not in package, name
