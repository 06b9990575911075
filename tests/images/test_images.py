"""What is in an image, and what its container may do."""

from __future__ import annotations

import json
import subprocess

import pytest

from relais_common import __version__
from relais_testing.composed import Composed

# Whoever comes first starts all of it.
pytestmark = pytest.mark.timeout(900)

SERVICES = ("orchestrator", "llm-worker", "embedding-worker")
COMPILERS = "gcc g++ cc c++ clang cpp as ld make rustc cargo pip uv"


@pytest.mark.parametrize("service", SERVICES)
def test_it_has_no_rights(stack: Composed, service: str) -> None:
    found = stack.inspect(service)
    code, user = stack.shell(service, "id -u; id -g; grep -E 'CapEff|NoNewPrivs' /proc/1/status")

    assert code == 0
    assert user.split() == ["10001", "10001", "CapEff:", "0" * 16, "NoNewPrivs:", "1"]
    assert found["HostConfig"]["ReadonlyRootfs"] is True
    for place in ("/", "/app", "/opt/venv", "/opt/relais", "/etc"):
        code, _ = stack.shell(service, f"touch {place}/written")
        assert code, place
    assert stack.shell(service, "touch /tmp/written")[0] == 0


@pytest.mark.parametrize("service", SERVICES)
def test_nothing_of_its_making_is_left_inside(stack: Composed, service: str) -> None:
    found = stack.shell(
        service,
        f"for program in {COMPILERS}; do command -v $program; done; "
        "find /opt /root /tmp /var/lib/apt/lists -name tests -o -name '*.whl' -o -name '*.deb' -o -name .cache "
        "2>/dev/null | head; ls /var/lib/apt/lists; ls -d /src /wheels /opt/tools 2>/dev/null",
    )[1]
    # Those of the base: Python's own image has pip.
    assert [line for line in found.splitlines() if not line.startswith("/usr/local/bin/pip")] == []


@pytest.mark.parametrize("service", SERVICES)
def test_bytecode_is_compiled_for_all_of_our_code(stack: Composed, service: str) -> None:
    script = (
        "import pathlib, importlib.util as u; "
        "print([str(p) for p in pathlib.Path('/opt/relais').rglob('*.py') "
        "if not pathlib.Path(u.cache_from_source(str(p))).exists()])"
    )
    assert stack.shell(service, f'python -c "{script}"') == (0, "[]")


@pytest.mark.parametrize("service", SERVICES)
def test_it_says_what_it_is(stack: Composed, service: str) -> None:
    config = stack.inspect(service)["Config"]
    labels = config["Labels"]

    assert labels["org.opencontainers.image.title"] == f"relais-{service}"
    assert labels["org.opencontainers.image.version"] == __version__
    assert labels["org.opencontainers.image.revision"]
    assert labels["org.opencontainers.image.description"].startswith("Relais: ")
    assert config["StopSignal"] == "SIGTERM"
    assert config["Entrypoint"][:2] == ["tini", "--"]
    built = subprocess.run(
        ["docker", "image", "inspect", "--format", "{{json .Config.Env}}", config["Image"]],
        capture_output=True,
        text=True,
        check=True,
    )
    # Neither a secret of whoever built it, nor his index; a stand-in for the base has the latter.
    kept = {one.partition("=")[0] for one in json.loads(built.stdout)}
    assert not {one for one in kept if "PASSWORD" in one or "TOKEN" in one or "KEY" in one}
    assert "relais.stand-in" in labels or not {
        one for one in kept if one.startswith(("PIP_", "UV_"))
    }
