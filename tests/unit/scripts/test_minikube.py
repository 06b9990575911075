"""`bootstrap.sh minikube`: what it asks of minikube, kubectl and docker, in which order, and what it says without them.

The commands are stand-ins that write down how they were called.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from relais_testing.waiting import LIVENESS_S

ROOT = Path(__file__).resolve().parents[3]
COREUTILS = (
    "basename bash cat cp cut dirname grep head id ls mkdir mktemp mv nohup nproc od ps rm sed sh sleep sort tail"
    " touch tr"
).split()

MINIKUBE = """
case "$1" in
    status) [ -e "$STATE/running" ] && echo "Running Running" || { echo "Stopped Stopped"; exit 7; } ;;
    start) touch "$STATE/running" ;;
    image) [ "$2" = load ] && echo "docker.io/$5" >>"$STATE/images" || cat "$STATE/images" ;;
    tunnel) touch "$STATE/tunnel"; trap 'rm -f "$STATE/tunnel"; exit 0' TERM; while :; do sleep 0.05; done ;;
esac
"""
KUBECTL = """
case "$*" in
    *customresourcedefinition*) [ -e "$STATE/keda" ] ;;
    *"get deployments --namespace keda"*) cat "$STATE/keda" ;;
    *"apply --server-side"*) printf 'operator\\nmetrics\\nwebhook\\n' >"$STATE/keda" ;;
    *"apply -f -") cat >"$STATE/applied" ;;
    *"get service"*) [ -e "$STATE/tunnel" ] && printf 10.96.0.7 ;;
    *"rollout status deployment/llm-worker"*) [ ! -e "$STATE/broken" ] ;;
    "kustomize "*) cat <<END
data:
  LOG_LEVEL: info
  MODELS: relais-demo
      - image: relais/relais-llm-worker:local-cpu
        image: relais/relais-kpi:local
        image: redis:7.4-bookworm
END
    ;;
esac
"""
DOCKER = """
case "$*" in
    "image inspect"*kpi*) cat "$STATE/kpi" ;;
    "image inspect"*) echo sha256:0123456789abcdef ;;
esac
"""
CURL = """
case "$*" in
    */v1/chat/completions*) printf '{"choices":[{"message":{"content":"We hear \\\\"you\\\\"."}}]}' ;;
esac
"""


class Machine:
    """A repository's copy, and a PATH that has what is put there."""

    def __init__(self, folder: Path) -> None:
        self.root = folder / "repository"
        self.bin = folder / "bin"
        self.state = folder / "state"
        self.calls_file = folder / "calls"
        for path in (self.bin, self.state, self.root / "scripts"):
            path.mkdir(parents=True)
        shutil.copy(ROOT / "scripts" / "bootstrap.sh", self.root / "scripts")
        shutil.copytree(ROOT / "scripts" / "lib", self.root / "scripts" / "lib")
        shutil.copytree(
            ROOT / "infra" / "minikube",
            self.root / "infra" / "minikube",
            ignore=shutil.ignore_patterns("secrets"),
        )
        for name in COREUTILS:
            found = shutil.which(name)
            assert found is not None, name
            (self.bin / name).symlink_to(found)
        self.add("minikube", MINIKUBE)
        self.add("kubectl", KUBECTL)
        self.add("docker", DOCKER)
        (self.state / "kpi").write_text("sha256:aaaaaaaaaaaabbbb\n")
        self.add("curl", CURL)
        self.add("sudo", 'shift; exec "$@"')
        self.add("build_images.sh", "", into=self.root / "scripts")

    def add(self, name: str, body: str, into: Path | None = None) -> None:
        path = (into or self.bin) / name
        path.write_text(f'#!/bin/sh\necho "{name} $*" >>"{self.calls_file}"\n{body}\n')
        path.chmod(0o755)

    def remove(self, name: str) -> None:
        (self.bin / name).unlink()

    def run(self, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
        self.calls_file.write_text("")
        return subprocess.run(
            ["bash", str(self.root / "scripts" / "bootstrap.sh"), "minikube", *arguments],
            env={
                "PATH": str(self.bin),
                "STATE": str(self.state),
                "HOME": "/nonexistent",
                "RELAIS_MINIKUBE_CPUS": "1",
                "RELAIS_MINIKUBE_MEMORY_MB": "512",
                **settings,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIVENESS_S,
            check=False,
        )

    @property
    def calls(self) -> list[str]:
        """Of those that change or wait for something; looks are left out."""
        looks = (
            "docker i",
            "docker tag",
            "minikube image ls",
            "minikube status",
            " get ",
            "kubectl kustomize",
            "nvidia-smi",
            "sudo",
        )
        return [
            line.replace(str(self.root), "ROOT")
            for line in self.calls_file.read_text().splitlines()
            if not any(look in line for look in looks)
        ]

    @property
    def applied(self) -> str:
        return (self.state / "applied").read_text()

    def close(self) -> None:
        self.run("down")  # ends the tunnel, if it is one


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.close()


def waits(name: str) -> str:
    return f"kubectl --context relais --namespace relais rollout status {name} --timeout 900s"


def test_a_fresh_machine_is_brought_up_in_order(machine: Machine) -> None:
    done = machine.run()

    assert done.returncode == 0, done.stderr
    assert machine.calls == [
        "minikube start --profile relais --driver docker --cpus 1 --memory 512m --cni calico --addons metrics-server",
        "kubectl --context relais apply --server-side -f https://github.com/kedacore/keda/releases/download/v2.20.2/keda-2.20.2.yaml",
        "kubectl --context relais --namespace keda wait --for condition=Available deployment --all --timeout 900s",
        "build_images.sh orchestrator llm-worker-cpu embedding-worker kpi",
        "minikube image load --profile relais relais/relais-orchestrator:local-0123456789ab",
        "minikube image load --profile relais relais/relais-llm-worker:local-cpu-0123456789ab",
        "minikube image load --profile relais relais/relais-embedding-worker:local-0123456789ab",
        "minikube image load --profile relais relais/relais-kpi:local-aaaaaaaaaaaa",
        "kubectl --context relais apply -f -",
        waits("statefulset/redis"),
        waits("statefulset/mongodb"),
        waits("deployment/orchestrator"),
        waits("deployment/llm-worker"),
        waits("deployment/embedding-worker"),
        "minikube tunnel --profile relais",
        "curl -fsS --max-time 10 --retry 10 --retry-all-errors --retry-delay 1 http://10.96.0.7:8080/readyz",
        machine.calls[-1],
    ]
    assert '"model": "relais-demo"' in machine.calls[-1]
    assert 'We hear \\"you\\".' in done.stdout
    assert "http://10.96.0.7:8080/docs" in done.stdout


def test_a_second_time_nothing_is_made_again(machine: Machine) -> None:
    machine.run()
    secrets = machine.root / "infra/minikube/overlays/minikube-cpu/secrets"
    before = {path.name: path.read_text() for path in secrets.iterdir()}

    done = machine.run("up", "--no-build")

    assert done.returncode == 0, done.stderr
    assert "using the minikube cluster 'relais'" in done.stdout
    assert not [
        call for call in machine.calls if "start" in call or "-side" in call or "image" in call
    ]
    assert "minikube tunnel --profile relais" not in machine.calls
    assert {path.name: path.read_text() for path in secrets.iterdir()} == before


def test_what_was_built_anew_is_loaded_and_rolled_out_and_nothing_else(machine: Machine) -> None:
    machine.run("--no-tunnel")
    before = machine.applied
    (machine.state / "kpi").write_text("sha256:ccccccccccccdddd\n")

    machine.run("--no-tunnel")

    assert [call for call in machine.calls if "image load" in call] == [
        "minikube image load --profile relais relais/relais-kpi:local-cccccccccccc"
    ]
    assert "image: relais/relais-llm-worker:local-cpu-0123456789ab\n" in before
    assert "image: redis:7.4-bookworm\n" in before
    assert machine.applied == before.replace("local-aaaaaaaaaaaa", "local-cccccccccccc") != before
    machine.run("--no-tunnel", "--no-build")
    assert "image: relais/relais-kpi:local-cccccccccccc\n" in machine.applied


def test_an_interrupted_install_of_keda_is_finished(machine: Machine) -> None:
    (machine.state / "keda").write_text("operator\n")  # and its definitions

    done = machine.run("--no-tunnel")

    assert done.returncode == 0, done.stderr
    assert len([call for call in machine.calls if "apply --server-side" in call]) == 1


def test_passwords_are_made_here_agree_and_are_shown_to_nobody(machine: Machine) -> None:
    done = machine.run("--no-tunnel")

    secrets = machine.root / "infra/minikube/overlays/minikube-cpu/secrets"
    read = {
        key: value
        for path in secrets.iterdir()
        for key, _, value in (line.partition("=") for line in path.read_text().splitlines())
    }
    assert len(read["REDIS_PASSWORD"]) == 48
    assert f":{read['MONGO_INITDB_ROOT_PASSWORD']}@mongodb:27017" in read["MONGODB_URL"]
    assert read["REDIS_PASSWORD"] != read["MONGO_INITDB_ROOT_PASSWORD"]
    assert {path.stat().st_mode & 0o777 for path in secrets.iterdir()} == {0o600}
    assert secrets.stat().st_mode & 0o777 == 0o700
    seen = done.stdout + done.stderr + machine.calls_file.read_text()
    assert read["REDIS_PASSWORD"] not in seen
    assert read["MONGO_INITDB_ROOT_PASSWORD"] not in seen
    examples = machine.root / "infra/minikube/overlays/minikube-cpu/secrets.example"
    assert {path.name for path in secrets.iterdir()} == {path.name for path in examples.iterdir()}


def test_all_that_is_missing_is_named_at_once(machine: Machine) -> None:
    for name in ("minikube", "kubectl", "docker", "curl"):
        machine.remove(name)

    done = machine.run()

    assert done.returncode == 1
    assert done.stdout == ""
    lines = done.stderr.splitlines()
    assert lines[0] == "bootstrap: missing for minikube:"
    assert [line.split(":")[0].strip() for line in lines[1:]] == [
        "minikube",
        "kubectl",
        "curl",
        "docker",
    ]


def test_a_daemon_that_does_not_answer_is_named(machine: Machine) -> None:
    machine.add("docker", "exit 1")

    done = machine.run()

    assert done.returncode == 1
    assert "a Docker daemon that answers you" in done.stderr
    assert machine.calls == []


def test_a_machine_that_is_too_small_is_told_so(machine: Machine) -> None:
    done = machine.run(RELAIS_MINIKUBE_CPUS="9999")

    assert done.returncode == 1
    assert "9999 cores" in done.stderr
    assert "RELAIS_MINIKUBE_CPUS" in done.stderr
    assert machine.calls == []


def test_gpu_needs_a_gpu_and_the_toolkit(machine: Machine) -> None:
    done = machine.run("--gpu")

    assert "nvidia-smi finds none" in done.stderr
    assert "NVIDIA Container Toolkit" in done.stderr

    machine.add("nvidia-smi", "echo 'GPU 0: NVIDIA H100'")
    machine.add("docker", '[ "$1" != info ] || echo \'{"nvidia":{}}\'' + DOCKER)
    done = machine.run("--gpu", "--no-tunnel")

    assert done.returncode == 0, done.stderr
    assert machine.calls[0].endswith("--gpus=all")
    assert (
        "minikube image load --profile relais relais/relais-llm-worker:local-cuda-0123456789ab"
        in machine.calls
    )
    assert "overlays/minikube-gpu\n" in machine.calls_file.read_text()


def test_a_rollout_that_does_not_end_is_said_with_what_to_look_at(machine: Machine) -> None:
    (machine.state / "broken").touch()

    done = machine.run()

    assert done.returncode == 1
    assert "deployment/llm-worker is not ready after 900 s" in done.stderr
    assert "logs: kubectl --context relais -n relais logs deployment/llm-worker" in done.stderr
    assert "minikube tunnel --profile relais" not in machine.calls


def test_a_tunnel_that_ends_is_said_with_its_last_words(machine: Machine) -> None:
    machine.add(
        "minikube",
        MINIKUBE.replace('touch "$STATE/tunnel";', 'echo "port 80 is taken" >&2; exit 1;'),
    )

    done = machine.run()

    assert done.returncode == 1
    assert "the tunnel ended: port 80 is taken" in done.stderr


def test_down_closes_the_tunnel_and_keeps_the_data(machine: Machine) -> None:
    machine.run()
    assert (machine.state / "tunnel").exists()

    done = machine.run("down")

    assert done.returncode == 0, done.stderr
    assert machine.calls == ["minikube stop --profile relais"]
    assert not (machine.root / ".run/minikube/tunnel.pid").exists()
    assert (machine.root / "infra/minikube/overlays/minikube-cpu/secrets").is_dir()
    assert machine.run("down", "--delete").returncode == 0
    assert machine.calls == ["minikube delete --profile relais"]
    assert not (machine.root / "infra/minikube/overlays/minikube-cpu/secrets").exists()


def test_down_ends_no_process_that_is_not_the_tunnel(machine: Machine) -> None:
    with subprocess.Popen(["sleep", "60"]) as bystander:
        folder = machine.root / ".run" / "minikube"
        folder.mkdir(parents=True)
        (folder / "tunnel.pid").write_text(f"{bystander.pid}\n")

        assert machine.run("down").returncode == 0

        assert bystander.poll() is None
        bystander.terminate()


@pytest.mark.parametrize("arguments", [["up", "--purge"], ["sideways"], ["down", "--gpu"]])
def test_unknown_arguments_are_refused(machine: Machine, arguments: list[str]) -> None:
    done = machine.run(*arguments)

    assert done.returncode == 2
    assert "unknown" in done.stderr
    assert machine.calls == []
