#!/usr/bin/env bash
# Puts a release on a machine, by SSH and Docker Compose. `scripts/deploy.sh --help` says how; deploy_remote.sh is the half
# that runs there. Needs bash, coreutils, tar and an SSH client.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)

usage() {
    cat <<'END'
usage: scripts/deploy.sh [--dry-run] deploy | rollback | status   staging | prod

  deploy     send infra/compose with the environment's settings, pull the images, start them, wait until they are healthy.
             What does not become healthy is rolled back. The same release again changes nothing
  rollback   the release before the present one, as it was
  status     which release runs, and how its containers are

  --dry-run  say what would be done; connect to nothing

Variables, as GitLab CI has them (* is required, + for deploy):
  STAGING__ENV_FILE, PROD__ENV_FILE *  path of the environment's settings; CI_DEPLOY_HOST is one of them, and ENV
  CI_DEPLOY_USER *                     the account there; it may use Docker
  CI_DEPLOY_USER_SSH_PRIVATE_KEY *     its key, or the path of a file that has it
  API_KEYS +                           path of the file of clients' keys
  CI_REGISTRY_IMAGE +                  where the images are, such as registry.example.org/group/relais
  CI_API_IMAGE_TAG, CI_VLLM_IMAGE_TAG +
  CI_DEPLOY_GROUP_USER, CI_DEPLOY_GROUP_TOKEN   a token that may read the registry; without one images must be public
  CI_DEPLOY_KNOWN_HOSTS                the machine's host keys (ssh-keyscan), or the path of a file that has them;
                                       prod needs them; staging without them believes whatever answers
  CI_DEPLOY_PORT (22)   CI_DEPLOY_PATH (relais, in the home directory there)   CI_DEPLOY_TIMEOUT_S (600)
END
}

say() { printf 'deploy: %s\n' "$*"; }

die() {
    printf 'deploy: %s\n' "$*" >&2
    exit 1
}

usage_error() {
    printf 'deploy: %s\n' "$*" >&2
    usage >&2
    exit 2
}

# --- what is asked for --------------------------------------------------------------------------------------------------

dry_run=""
words=()
for word in "$@"; do
    case $word in
        -h | --help)
            usage
            exit 0
            ;;
        --dry-run) dry_run=yes ;;
        -*) usage_error "unknown argument '$word'" ;;
        *) words+=("$word") ;;
    esac
done
((${#words[@]} == 2)) || usage_error "it takes what to do, and where"
command=${words[0]} environment=${words[1]}
[[ $command =~ ^(deploy|rollback|status)$ ]] || usage_error "unknown command '$command'"
case $environment in
    staging) env_file_variable=STAGING__ENV_FILE ;;
    prod) env_file_variable=PROD__ENV_FILE ;;
    *) usage_error "unknown environment '$environment'" ;;
esac

# All that is missing or wrong, at once.
wrong=()
want() { [[ -n ${!1:-} ]] || wrong+=("$1 is not set"); }
want_file() { # want_file NAME: a variable that names a file
    if [[ -z ${!1:-} ]]; then
        wrong+=("$1 is not set")
    elif [[ ! -r ${!1} || -d ${!1} ]]; then
        wrong+=("$1: there is no file ${!1}")
    fi
}
setting() { # setting NAME: its value in the environment's file; the last one counts, as in Compose
    local value
    value=$(sed -n "s/^[[:space:]]*\(export[[:space:]]\+\)\?$1=//p" "$env_file" | tail -n 1 | tr -d '\r')
    if [[ $value =~ ^\"(.*)\"[[:space:]]*$ || $value =~ ^\'(.*)\'[[:space:]]*$ ]]; then
        value=${BASH_REMATCH[1]}
    fi
    printf '%s' "$value"
}

host=""
want_file "$env_file_variable"
env_file=${!env_file_variable:-}
if ((${#wrong[@]} == 0)); then
    host=$(setting CI_DEPLOY_HOST)
    [[ $host =~ ^[A-Za-z0-9][A-Za-z0-9._:-]*$ ]] || wrong+=("$env_file_variable: CI_DEPLOY_HOST is not a host's name or address")
    [[ $(setting ENV) == "$environment" ]] || wrong+=("$env_file_variable: ENV is '$(setting ENV)', not '$environment'")
fi
want CI_DEPLOY_USER
want CI_DEPLOY_USER_SSH_PRIVATE_KEY
# Whoever answers in the machine's place would get prod's secrets.
[[ $environment != prod ]] || want CI_DEPLOY_KNOWN_HOSTS
if [[ $command == deploy ]]; then
    want_file API_KEYS
    for variable in CI_REGISTRY_IMAGE CI_API_IMAGE_TAG CI_VLLM_IMAGE_TAG; do
        want "$variable"
        [[ ${!variable:-} =~ ^[A-Za-z0-9._:/-]*$ ]] || wrong+=("$variable is '${!variable}'")
    done
    if [[ -n ${CI_DEPLOY_GROUP_USER:-} && -z ${CI_DEPLOY_GROUP_TOKEN:-} ]]; then
        wrong+=("CI_DEPLOY_GROUP_TOKEN is not set, and CI_DEPLOY_GROUP_USER is")
    fi
fi
port=${CI_DEPLOY_PORT:-22}
[[ $port =~ ^[0-9]{1,5}$ ]] || wrong+=("CI_DEPLOY_PORT is '$port'")
path=${CI_DEPLOY_PATH:-relais}
[[ $path =~ ^[A-Za-z0-9_/][A-Za-z0-9._/-]*$ ]] || wrong+=("CI_DEPLOY_PATH is '$path'; letters, digits and ._/- only")
timeout_s=${CI_DEPLOY_TIMEOUT_S:-600}
[[ $timeout_s =~ ^[0-9]+$ ]] || wrong+=("CI_DEPLOY_TIMEOUT_S is '$timeout_s'")
if ((${#wrong[@]})); then
    printf 'deploy: %s\n' "${wrong[@]}" >&2
    exit 1
fi

# --- the release ----------------------------------------------------------------------------------------------------------

# What is secret lies in a folder of our own, and goes through pipes: never on a command line, which others can read.
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
umask 077

make_release() { # fills $work/release; sets `release`
    mkdir "$work/release"
    # A developer's own .env and keys stay here.
    tar -C "$ROOT/infra/compose" --exclude ./.env --exclude './keys/*' -c . | tar -C "$work/release" -x
    cp -R "$ROOT/infra/monitoring" "$work/release/monitoring"
    cp "$ROOT/scripts/deploy_remote.sh" "$work/release/"
    {
        cat "$env_file"
        printf '\n'
        printf '%s=%s\n' CI_REGISTRY_IMAGE "$CI_REGISTRY_IMAGE" CI_API_IMAGE_TAG "$CI_API_IMAGE_TAG" \
            CI_VLLM_IMAGE_TAG "$CI_VLLM_IMAGE_TAG" API_KEYS /etc/relais/keys/api_keys.json MONITORING_DIR ./monitoring
    } >"$work/release/.env"
    mkdir -p "$work/release/keys"
    cp "$API_KEYS" "$work/release/keys/api_keys.json"
    # Containers read these as users of their own; the folder around the releases is closed to everybody else.
    chmod -R a+rX "$work/release"
    chmod 600 "$work/release/.env"
    # The same content has the same name, so that a release that is there already is used again.
    release=$CI_API_IMAGE_TAG-$(
        cd "$work/release"
        find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum | cut -c 1-12
    )
}

# --- the machine ------------------------------------------------------------------------------------------------------------

prepare_ssh() {
    local known=$work/known_hosts strict=yes
    copy_secret CI_DEPLOY_USER_SSH_PRIVATE_KEY "$work/key"
    if [[ -n ${CI_DEPLOY_KNOWN_HOSTS:-} ]]; then
        copy_secret CI_DEPLOY_KNOWN_HOSTS "$known"
    else
        strict=accept-new
        printf 'deploy: WARNING: CI_DEPLOY_KNOWN_HOSTS is not set: whatever answers at %s is believed, and gets the secrets of %s\n' \
            "$host" "$environment" >&2
    fi
    # -F: what a runner's own configuration says must not count.
    ssh_command=(ssh -F /dev/null -o BatchMode=yes -o IdentitiesOnly=yes -i "$work/key"
        -o UserKnownHostsFile="$known" -o GlobalKnownHostsFile=/dev/null -o StrictHostKeyChecking="$strict"
        -o ConnectTimeout=15 -o ServerAliveInterval=15 -o LogLevel=ERROR -p "$port" -l "$CI_DEPLOY_USER" "$host")
}

copy_secret() { # copy_secret NAME PATH: of a file variable or a plain one; GitLab has both
    if [[ -f ${!1} ]]; then
        cat "${!1}" >"$2"
    else
        printf '%s\n' "${!1}" >"$2"
    fi
    # Pasted into a browser, a key gets line ends that the client does not read.
    sed -i 's/\r$//' "$2"
}

there() { "${ssh_command[@]}" "$@"; } # its words are checked above: none has a space or a quote

send_release() {
    # The folder appears whole or not at all.
    tar -C "$work/release" -cz . | there "umask 077 && mkdir -p $path/releases && cd $path/releases &&
        rm -rf $release.partial && mkdir $release.partial && tar -xpz -C $release.partial &&
        { if test -d $release; then rm -rf $release.partial; else mv $release.partial $release; fi; }" ||
        die "$host did not take the release"
}

# The half that is there. Its standard input has the registry's token, where there is one.
run_there() { # run_there COMMAND RELEASE|-
    local registry=- script=$path/current/deploy_remote.sh
    [[ $2 == - ]] || script=$path/releases/$2/deploy_remote.sh
    if [[ $1 == deploy && -n ${CI_DEPLOY_GROUP_USER:-} ]]; then
        registry=${CI_REGISTRY_IMAGE%%/*}
    fi
    {
        [[ $registry == - ]] || printf '%s\n%s\n' "$CI_DEPLOY_GROUP_USER" "$CI_DEPLOY_GROUP_TOKEN"
    } | there "test -e $script || { echo 'deploy: nothing was deployed there' >&2; exit 1; }
        exec bash $script $1 $path $2 $registry $timeout_s"
}

case $command in
    deploy)
        make_release
        if [[ -n $dry_run ]]; then
            say "would deploy the release $release to $CI_DEPLOY_USER@$host:$path"
            say "images: $CI_REGISTRY_IMAGE, tags $CI_API_IMAGE_TAG and $CI_VLLM_IMAGE_TAG"
            (cd "$work/release" && find . -type f | sort | sed 's|^\./|deploy:   |')
            say "settings: $(sed -n 's/^[[:space:]]*\(export[[:space:]]\+\)\?\([A-Z_][A-Z0-9_]*\)=.*/\2/p' "$work/release/.env" | sort -u | tr '\n' ' ')"
            exit 0
        fi
        prepare_ssh
        say "sending the release $release to $host"
        send_release
        run_there deploy "$release"
        ;;
    *)
        if [[ -n $dry_run ]]; then
            say "would ask $CI_DEPLOY_USER@$host:$path for: $command"
            exit 0
        fi
        prepare_ssh
        run_there "$command" -
        ;;
esac
