# shellcheck shell=bash
# A Docker engine for checking images: the machine's own where one answers; else, in CI, one that lies in a temporary folder
# and is thrown away. Sourced after env.sh.

ENGINE_ROOT="" # where the engine is ours
ENGINE_START_S=60
REGISTRY_TIMEOUT_S=15

engine_answers() { docker version >/dev/null 2>&1 && docker compose version >/dev/null 2>&1; }

# Sets DOCKER_HOST where it starts one. The caller traps stop_engine.
require_engine() {
    if engine_answers; then
        return
    fi
    if [[ -z ${CI:-} && ${RELAIS_DOCKER:-} != temporary ]]; then
        say "without an engine of this machine's own, RELAIS_DOCKER=temporary puts one into a temporary folder (root, Debian)"
        local missing=()
        look_for_docker
        refuse_missing "checking images" ${missing[@]+"${missing[@]}"}
    fi
    [[ $(id -u) == 0 ]] || die "no Docker engine answers, and only root can start one"
    # shellcheck source=/dev/null
    [[ $(. /etc/os-release && echo "$ID") == debian ]] ||
        die "no Docker engine answers, and one can be put into a temporary folder on Debian only: install Docker"
    start_engine
}

# The engine's programs come from Debian packages that are unpacked, not installed; Debian 12's own are too old.
start_engine() {
    local suite options package
    [[ -n $(debian_mirror) ]] || apt-get update >/dev/null 2>&1 || true
    for package in iptables runc tini mmdebstrap; do
        command -v "$package" >/dev/null || RUNLEVEL=1 apt_install "$package" "a Docker engine needs it"
    done
    # Two engines would fight over one bridge and one set of rules.
    exec 8>"${TMPDIR:-/tmp}/relais-docker.lock"
    flock -n 8 || { say "waiting for another run's Docker engine" && flock 8; }
    ENGINE_ROOT=$(mktemp -d "${TMPDIR:-/tmp}/relais-docker.XXXXXX")
    mkdir -p "$ENGINE_ROOT"/{lists/partial,archives/partial,programs,cli,debs}
    # shellcheck source=/dev/null
    suite=$(. /etc/os-release && echo "$VERSION_CODENAME")
    [[ $suite != bookworm ]] || suite=trixie
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\nSigned-By: %s\n' "$(debian_mirror)" "$suite" \
        /usr/share/keyrings/debian-archive-keyring.gpg >"$ENGINE_ROOT/engine.sources"
    options=(-o Dir::Etc::SourceList="$ENGINE_ROOT/engine.sources" -o Dir::Etc::SourceParts=/dev/null
        -o Dir::State::Lists="$ENGINE_ROOT/lists" -o Dir::Cache::Archives="$ENGINE_ROOT/archives"
        -o Dir::Cache::pkgcache="" -o Dir::Cache::srcpkgcache="" -o Acquire::Languages=none
        -o APT::Sandbox::User=root)
    (cd "$ENGINE_ROOT/debs" && apt-get "${options[@]}" update && apt-get "${options[@]}" download \
        docker.io docker-cli containerd docker-buildx docker-compose) >"$ENGINE_ROOT/apt.log" 2>&1 ||
        die "the Docker engine could not be downloaded: $(tail -n 1 "$ENGINE_ROOT/apt.log")"
    for package in "$ENGINE_ROOT"/debs/*.deb; do
        dpkg -x "$package" "$ENGINE_ROOT/programs"
    done
    printf '{"cliPluginsExtraDirs": ["%s"]}' "$ENGINE_ROOT/programs/usr/libexec/docker/cli-plugins" >"$ENGINE_ROOT/cli/config.json"
    export PATH=$ENGINE_ROOT/programs/usr/bin:$ENGINE_ROOT/programs/usr/sbin:$PATH:/usr/sbin
    export DOCKER_CONFIG=$ENGINE_ROOT/cli DOCKER_HOST=unix://$ENGINE_ROOT/docker.sock
    setsid dockerd --data-root "$ENGINE_ROOT/data" --exec-root "$ENGINE_ROOT/exec" --pidfile "$ENGINE_ROOT/docker.pid" \
        --host "$DOCKER_HOST" --init-path "$(command -v tini)" >"$ENGINE_ROOT/dockerd.log" 2>&1 </dev/null 8>&- &
    local end=$((SECONDS + ENGINE_START_S))
    until engine_answers; do
        if ! kill -0 $! 2>/dev/null || ((SECONDS > end)); then
            tail -n 5 "$ENGINE_ROOT/dockerd.log" >&2
            die "a Docker engine could not be started on this machine (see above)"
        fi
        sleep 0.2
    done
    say "a Docker engine of our own: $(docker version --format '{{.Server.Version}}'), Compose $(docker compose version --short)"
}

# Ends the engine that start_engine started, and removes all of it.
stop_engine() {
    [[ -n $ENGINE_ROOT ]] || return 0
    local pid end=$((SECONDS + 60))
    pid=$(cat "$ENGINE_ROOT/docker.pid" 2>/dev/null || true)
    if [[ -n $pid ]]; then
        kill "$pid" 2>/dev/null || true
        while kill -0 "$pid" 2>/dev/null && ((SECONDS < end)); do sleep 0.2; done
    fi
    # Tens of thousands of files: nobody waits for that.
    (setsid rm -rf "$ENGINE_ROOT" >/dev/null 2>&1 &)
    ENGINE_ROOT=""
    exec 8>&-
}

# Where this machine's own packages come from.
debian_mirror() {
    local codename
    # shellcheck source=/dev/null
    codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(REPO_URI) $(CODENAME)' 'Created-By: Packages' |
        awk -v codename="$codename" '$2 == codename { print $1; exit }'
}

# need_image IMAGE COMMAND...: present, or pulled; where no registry of images can be reached and the engine is thrown away,
# made by the command, under the same name. Somebody's own engine never gets such stand-ins.
need_image() {
    local image=$1
    shift
    docker image inspect "$image" >/dev/null 2>&1 && return
    if timeout "$REGISTRY_TIMEOUT_S" docker manifest inspect "$image" >/dev/null 2>&1; then
        docker pull --quiet "$image" >/dev/null && return
    fi
    [[ -n $ENGINE_ROOT ]] || die "the image $image cannot be pulled"
    say "$image cannot be pulled: making one that stands in for it"
    "$@" || die "$image could not be made (see above)"
}

is_stand_in() { # is_stand_in IMAGE
    [[ $(docker image inspect --format '{{index .Config.Labels "relais.stand-in"}}' "$1") == true ]]
}

# Debian 12 with its Python, and with what this machine needs to reach the package index: certificates, proxies, addresses.
make_python_image() { # make_python_image IMAGE
    local variable changes=(--change 'CMD ["python3"]' --change 'LABEL relais.stand-in=true'
        --change 'ENV SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt')
    for variable in PIP_INDEX_URL PIP_EXTRA_INDEX_URL UV_INDEX_URL UV_DEFAULT_INDEX UV_INDEX \
        HTTP_PROXY HTTPS_PROXY NO_PROXY http_proxy https_proxy no_proxy; do
        [[ -z ${!variable:-} ]] || changes+=(--change "ENV $variable=${!variable}")
    done
    mmdebstrap --quiet --variant=minbase --include=python3,python3-venv,ca-certificates \
        --aptopt='Acquire::Languages "none"' --dpkgopt='path-exclude=/usr/share/doc/*' --dpkgopt='path-exclude=/usr/share/man/*' \
        --customize-hook='copy-in /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/' \
        bookworm - "$(debian_mirror)" | docker import "${changes[@]}" - "$1" >/dev/null
}
