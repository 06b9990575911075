"""scripts/deploy.sh against a real sshd on this machine. Docker there is a stand-in that notes what it is asked."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from relais_testing.sshd import Sshd, running_sshd
from relais_testing.tcp_ports import HOST
from relais_testing.waiting import LIVENESS_S

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "glpat-very-secret-token"
PASSWORD = "a-password-of-redis"
CLIENT_KEY = "a-client-s-key"
DOCKER = """
echo "docker $*" >>"$STATE/calls"
case "$*" in
    login*) [ "$(cat)" = "{token}" ] || {{ echo "denied: wrong token" >&2; exit 1; }} ;;
    *" up "*)
        tag=$(sed -n 's/^CI_API_IMAGE_TAG=//p' .env)
        echo "$tag" >"$STATE/running"
        [ "$tag" != broken ] || exit 1 ;;
    *" pull "*) [ "$(sed -n 's/^CI_API_IMAGE_TAG=//p' .env)" != absent ] ;;
esac
"""


class Remote:
    """The machine deployed to: folders of this one."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "remote" / "relais"
        self.state = folder / "state"
        self.bin = folder / "bin"
        for path in (self.state, self.bin):
            path.mkdir()
        docker = self.bin / "docker"
        docker.write_text("#!/bin/sh" + DOCKER.format(token=TOKEN))
        docker.chmod(0o755)

    @property
    def calls(self) -> list[str]:
        file = self.state / "calls"
        return file.read_text().splitlines() if file.exists() else []

    @property
    def running(self) -> str:
        return (self.state / "running").read_text().strip()

    def release(self, name: str) -> Path:
        return (self.path / name).resolve()


class Deployment:
    """Somebody's CI, with its variables."""

    def __init__(self, folder: Path, remote: Remote, sshd: Sshd, api_port: int) -> None:
        self.remote = remote
        self.root = folder / "repository"
        (self.root / "scripts").mkdir(parents=True)
        for name in ("deploy.sh", "deploy_remote.sh"):
            shutil.copy(ROOT / "scripts" / name, self.root / "scripts")
        compose = self.root / "infra" / "compose"
        compose.mkdir(parents=True)
        (compose / "compose.yaml").write_text("services: {}\n")
        (compose / ".env").write_text("REDIS_PASSWORD=own\n")
        (compose.parent / "monitoring").mkdir()
        (compose.parent / "monitoring" / "alerts.yaml").write_text("groups: []\n")
        (compose / "keys").mkdir()
        (compose / "keys" / "mine.json").write_text("{}")
        # What the client is called with can be read by everybody on a runner.
        self.ssh_calls = folder / "ssh-calls"
        self.bin = folder / "client-bin"
        self.bin.mkdir()
        ssh = self.bin / "ssh"
        ssh.write_text(
            f'#!/bin/sh\necho "$@" >>"{self.ssh_calls}"\nexec {shutil.which("ssh")} "$@"\n'
        )
        ssh.chmod(0o755)
        self.env_file = folder / "staging.env"
        self.env_file.write_text(
            f"ENV=staging\nCI_DEPLOY_HOST={HOST}\nREDIS_PASSWORD={PASSWORD}\nAPI_PORT={api_port}-{api_port + 1}\n"
        )
        keys = folder / "keys.json"
        keys.write_text(json.dumps({"client1": CLIENT_KEY}))
        self.variables = {
            "STAGING__ENV_FILE": str(self.env_file),
            "API_KEYS": str(keys),
            "CI_DEPLOY_USER": sshd.user,
            "CI_DEPLOY_USER_SSH_PRIVATE_KEY": sshd.key.read_text().replace("\n", "\r\n"),
            "CI_DEPLOY_KNOWN_HOSTS": sshd.known_hosts,
            "CI_DEPLOY_PORT": str(sshd.port),
            "CI_DEPLOY_PATH": str(remote.path),
            "CI_DEPLOY_TIMEOUT_S": "2",
            "CI_DEPLOY_GROUP_USER": "deployer",
            "CI_DEPLOY_GROUP_TOKEN": TOKEN,
            "CI_REGISTRY_IMAGE": "registry.example.org/group/relais",
            "CI_API_IMAGE_TAG": "1.0.0",
            "CI_VLLM_IMAGE_TAG": "1.0.0",
        }

    def run(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["bash", str(self.root / "scripts" / "deploy.sh"), *arguments],
            env={"PATH": f"{self.bin}:{os.environ['PATH']}", **self.variables, **variables},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=LIVENESS_S,
            check=False,
        )


@pytest.fixture
def remote(tmp_path: Path) -> Remote:
    return Remote(tmp_path)


@pytest.fixture
def api_port(remote: Remote) -> Iterator[int]:
    """What the machine's API_PORT answers: ready, but for the release `unready`."""

    class Api(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(503 if remote.running == "unready" else 200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer((HOST, 0), Api) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


@pytest.fixture
def deployment(tmp_path: Path, remote: Remote, api_port: int) -> Iterator[Deployment]:
    environment = {"PATH": f"{remote.bin}:{os.environ['PATH']}", "STATE": str(remote.state)}
    with running_sshd(tmp_path / "sshd", environment) as sshd:
        yield Deployment(tmp_path, remote, sshd, api_port)


def test_a_release_is_sent_pulled_and_started(deployment: Deployment, remote: Remote) -> None:
    done = deployment.run("deploy", "staging")

    assert done.returncode == 0, done.stderr
    assert remote.calls == [
        "docker compose version",
        "docker login --username deployer --password-stdin registry.example.org",
        "docker compose --project-name relais pull --quiet",
        "docker logout registry.example.org",
        "docker compose --project-name relais up --detach --wait --wait-timeout 2 --remove-orphans",
    ]
    release = remote.release("current")
    assert release.parent == remote.path / "releases"
    assert release.name.startswith("1.0.0-")
    settings = dict(
        line.split("=", 1) for line in (release / ".env").read_text().splitlines() if line
    )
    assert settings["REDIS_PASSWORD"] == PASSWORD
    assert settings["CI_REGISTRY_IMAGE"] == "registry.example.org/group/relais"
    assert settings["CI_API_IMAGE_TAG"] == "1.0.0"
    keys = release / "keys" / Path(settings["API_KEYS"]).name
    assert json.loads(keys.read_text()) == {"client1": CLIENT_KEY}
    # What a developer has beside compose.yaml is nobody else's.
    assert "own" not in (release / ".env").read_text()
    assert [path.name for path in keys.parent.iterdir()] == ["api_keys.json"]


def test_secrets_are_on_no_command_line_and_in_no_log(
    deployment: Deployment, remote: Remote
) -> None:
    done = deployment.run("deploy", "staging")

    key = Path(deployment.variables["STAGING__ENV_FILE"]).parent / "sshd" / "user_key"
    shown = done.stdout + done.stderr + deployment.ssh_calls.read_text() + "\n".join(remote.calls)
    for secret in (TOKEN, PASSWORD, CLIENT_KEY, key.read_text().splitlines()[1]):
        assert secret not in shown
    everything = "".join(path.read_text() for path in remote.path.rglob("*") if path.is_file())
    assert TOKEN not in everything
    release = remote.release("current")
    # Where MONITORING_DIR leads, for the profile monitoring.
    assert (release / "monitoring" / "alerts.yaml").is_file()
    assert (release / ".env").stat().st_mode & 0o777 == 0o600
    # Containers read it as another user; nobody else gets as far as the folder.
    assert (release / "keys" / "api_keys.json").stat().st_mode & 0o777 == 0o644
    assert release.parent.stat().st_mode & 0o777 == 0o700


def test_the_same_release_again_is_the_same(deployment: Deployment, remote: Remote) -> None:
    deployment.run("deploy", "staging")
    first = remote.release("current")

    done = deployment.run("deploy", "staging")

    assert done.returncode == 0, done.stderr
    assert remote.release("current") == first
    assert not (remote.path / "previous").exists()
    assert [path.name for path in first.parent.iterdir()] == [first.name]


@pytest.mark.parametrize("tag", ["broken", "unready"])
def test_a_release_that_is_not_healthy_is_rolled_back(
    deployment: Deployment, remote: Remote, tag: str
) -> None:
    deployment.run("deploy", "staging")
    good = remote.release("current")

    done = deployment.run("deploy", "staging", CI_API_IMAGE_TAG=tag)

    assert done.returncode == 1
    assert f"rolled back to {good.name}" in done.stderr
    assert remote.running == "1.0.0"
    assert remote.release("current") == good


def test_images_that_cannot_be_pulled_change_nothing(
    deployment: Deployment, remote: Remote
) -> None:
    deployment.run("deploy", "staging")
    before = len([call for call in remote.calls if " up " in call])

    done = deployment.run("deploy", "staging", CI_API_IMAGE_TAG="absent")

    assert done.returncode == 1
    assert "nothing was changed" in done.stderr
    assert len([call for call in remote.calls if " up " in call]) == before
    assert remote.running == "1.0.0"


def test_rollback_brings_the_one_before_and_back_again(
    deployment: Deployment, remote: Remote
) -> None:
    deployment.run("deploy", "staging")
    deployment.run("deploy", "staging", CI_API_IMAGE_TAG="1.1.0")
    assert remote.running == "1.1.0"

    done = deployment.run("rollback", "staging")

    assert done.returncode == 0, done.stderr
    assert remote.running == "1.0.0"
    assert remote.release("current").name.startswith("1.0.0-")
    assert remote.release("previous").name.startswith("1.1.0-")
    assert deployment.run("status", "staging").stdout.startswith("deploy: runs: 1.0.0-")
    deployment.run("rollback", "staging")
    assert remote.running == "1.1.0"


def test_old_releases_are_forgotten_but_for_those_in_use(
    deployment: Deployment, remote: Remote
) -> None:
    releases = remote.path / "releases"
    for minor in range(8):
        (releases / f"0.{minor}.0").mkdir(parents=True)
        os.utime(releases / f"0.{minor}.0", (minor, minor))
    (remote.path / "current").symlink_to("releases/0.0.0")

    done = deployment.run("deploy", "staging")

    assert done.returncode == 0, done.stderr
    assert remote.release("previous").name == "0.0.0"
    kept = {path.name for path in releases.iterdir()}
    assert kept == {remote.release("current").name, "0.7.0", "0.6.0", "0.5.0", "0.4.0", "0.0.0"}


def test_a_token_that_the_registry_refuses_is_said(deployment: Deployment, remote: Remote) -> None:
    done = deployment.run("deploy", "staging", CI_DEPLOY_GROUP_TOKEN="wrong")

    assert done.returncode == 1
    assert "the registry registry.example.org refuses: denied: wrong token" in done.stderr
    assert not (remote.path / "current").exists()


def test_another_machine_in_its_place_is_not_believed(
    deployment: Deployment, remote: Remote, tmp_path: Path
) -> None:
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(tmp_path / "other")], check=True
    )
    address = deployment.variables["CI_DEPLOY_KNOWN_HOSTS"].split()[0]
    other = f"{address} {' '.join((tmp_path / 'other.pub').read_text().split()[:2])}\n"

    done = deployment.run("deploy", "staging", CI_DEPLOY_KNOWN_HOSTS=other)

    assert done.returncode == 1
    assert not remote.path.exists()


def test_without_known_hosts_it_goes_on_and_says_so(deployment: Deployment) -> None:
    done = deployment.run("deploy", "staging", CI_DEPLOY_KNOWN_HOSTS="")

    assert done.returncode == 0, done.stderr
    assert "WARNING" in done.stderr
    assert "whatever answers at 127.0.0.1 is believed" in done.stderr


@pytest.mark.parametrize("command", ["deploy", "rollback", "status"])
def test_prod_without_known_hosts_is_asked_for_nothing(
    deployment: Deployment, remote: Remote, command: str
) -> None:
    deployment.env_file.write_text(deployment.env_file.read_text().replace("staging", "prod"))
    prod = {"PROD__ENV_FILE": str(deployment.env_file)}

    done = deployment.run(command, "prod", CI_DEPLOY_KNOWN_HOSTS="", **prod)

    assert done.returncode == 1
    assert done.stderr == "deploy: CI_DEPLOY_KNOWN_HOSTS is not set\n"
    assert not deployment.ssh_calls.exists()
    assert not remote.path.exists()


def test_prod_with_known_hosts_is_deployed(deployment: Deployment, remote: Remote) -> None:
    deployment.env_file.write_text(deployment.env_file.read_text().replace("staging", "prod"))

    done = deployment.run("deploy", "prod", PROD__ENV_FILE=str(deployment.env_file))

    assert done.returncode == 0, done.stderr
    assert remote.running == "1.0.0"


def test_two_at_once_take_no_turns(deployment: Deployment, remote: Remote) -> None:
    deployment.run("deploy", "staging")
    with subprocess.Popen(
        ["flock", str(remote.path / ".lock"), "sh", "-c", "echo held; cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()

        done = deployment.run("deploy", "staging", CI_API_IMAGE_TAG="1.1.0")

        assert done.returncode == 1
        assert "another deployment is under way" in done.stderr
        holder.communicate(b"")
    assert remote.running == "1.0.0"


def test_dry_run_connects_to_nothing(deployment: Deployment, remote: Remote) -> None:
    done = deployment.run("--dry-run", "deploy", "staging")

    assert done.returncode == 0, done.stderr
    assert not deployment.ssh_calls.exists()
    assert not remote.path.exists()
    for word in (
        f"{HOST}:{remote.path}",
        "1.0.0-",
        "compose.yaml",
        "api_keys.json",
        "REDIS_PASSWORD",
    ):
        assert word in done.stdout
    assert PASSWORD not in done.stdout
    assert CLIENT_KEY not in done.stdout


def test_all_that_is_missing_or_wrong_is_named_at_once(deployment: Deployment) -> None:
    deployment.env_file.write_text("ENV=prod\n")
    done = deployment.run(
        "deploy",
        "staging",
        CI_DEPLOY_USER="",
        API_KEYS="/nonexistent",
        CI_API_IMAGE_TAG="1; reboot",
        CI_DEPLOY_PORT="ssh",
    )

    assert done.returncode == 1
    assert not deployment.ssh_calls.exists()
    assert done.stderr.splitlines() == [
        "deploy: STAGING__ENV_FILE: CI_DEPLOY_HOST is not a host's name or address",
        "deploy: STAGING__ENV_FILE: ENV is 'prod', not 'staging'",
        "deploy: CI_DEPLOY_USER is not set",
        "deploy: API_KEYS: there is no file /nonexistent",
        "deploy: CI_API_IMAGE_TAG is '1; reboot'",
        "deploy: CI_DEPLOY_PORT is 'ssh'",
    ]


def test_nothing_deployed_is_nothing_to_roll_back(deployment: Deployment) -> None:
    done = deployment.run("rollback", "staging")

    assert done.returncode == 1
    assert "nothing was deployed there" in done.stderr
