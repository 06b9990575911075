#!/usr/bin/env bash
# The half of deploy.sh that runs on the machine; it travels with each release.
#     deploy_remote.sh deploy|rollback|status PATH RELEASE|- REGISTRY|- TIMEOUT_S
# PATH/releases/ has the releases, PATH/current and PATH/previous lead to two of them. With a REGISTRY, the first two lines
# of standard input are a user and a token for it; they are used for the pull alone and stay nowhere.
set -euo pipefail

KEEP=5
PROJECT=relais

command=$1 path=$2 release=$3 registry=$4 timeout_s=$5

say() { printf 'deploy: %s\n' "$*"; }

die() {
    printf 'deploy: %s\n' "$*" >&2
    exit 1
}

cd "$path"
for program in docker curl flock; do
    command -v "$program" >/dev/null || die "$program is missing on $(hostname)"
done
docker compose version >/dev/null 2>&1 || die "docker has no compose plugin on $(hostname)"

exec 9>.lock
flock -n 9 || die "another deployment is under way"

present() { basename "$(readlink "$1" 2>/dev/null)" 2>/dev/null || true; } # present current|previous

point() { # point NAME RELEASE: in one step, so that a cut leaves the old or the new
    ln -sfn "releases/$2" "$1.new"
    mv -T "$1.new" "$1"
}

compose() { # compose RELEASE ARGUMENT...
    (cd "releases/$1" && docker compose --project-name "$PROJECT" "${@:2}")
}

pull() ( # in a shell of its own, with a configuration of Docker of its own
    local user token config own
    config=$(mktemp -d)
    # shellcheck disable=SC2064 # this folder, now. Where the account keeps logins elsewhere, it is taken out there.
    trap "[[ $registry == - ]] || docker logout '$registry' >/dev/null 2>&1 || true; rm -rf '$config'" EXIT
    if [[ $registry != - ]]; then
        IFS= read -r user
        IFS= read -r token
        # What else the account has set for Docker still counts: plugins, proxies.
        own=${DOCKER_CONFIG:-$HOME/.docker}
        [[ ! -d $own/cli-plugins ]] || ln -s "$own/cli-plugins" "$config/"
        [[ ! -f $own/config.json ]] || cp "$own/config.json" "$config/"
        export DOCKER_CONFIG=$config
        printf '%s' "$token" | docker login --username "$user" --password-stdin "$registry" >/dev/null 2>"$config/said" ||
            die "the registry $registry refuses: $(tail -n 1 "$config/said")"
    fi
    compose "$1" pull --quiet || die "the images could not be pulled; nothing was changed"
)

setting() { # setting RELEASE NAME
    sed -n "s/^[[:space:]]*$2=[\"']\{0,1\}\([^\"']*\).*/\1/p" "releases/$1/.env" | tail -n 1 | tr -d '\r'
}

# Up, and seen to answer from outside its container.
healthy() { # healthy RELEASE
    local host port started=$SECONDS
    compose "$1" up --detach --wait --wait-timeout "$timeout_s" --remove-orphans || return 1
    host=$(setting "$1" API_HOST) port=$(setting "$1" API_PORT)
    [[ -n $host && $host != 0.0.0.0 ]] || host=127.0.0.1
    # Of several orchestrators, 8080-8083, the first.
    port=${port%%-*}
    until curl -fs --max-time 5 -o /dev/null "http://$host:${port:-8080}/readyz"; do
        ((SECONDS - started < timeout_s)) || return 1
        sleep 0.5
    done
}

forget_old() {
    local one current previous
    current=$(present current) previous=$(present previous)
    # shellcheck disable=SC2012 # names are ours: no space, no line end
    ls -1t releases | tail -n "+$((KEEP + 1))" | while read -r one; do
        [[ $one == "$current" || $one == "$previous" ]] || rm -rf "releases/${one:?}"
    done
}

case $command in
    deploy)
        before=$(present current)
        pull "$release"
        say "starting $release"
        if healthy "$release"; then
            [[ $before == "$release" || -z $before ]] || point previous "$before"
            point current "$release"
            touch "releases/$release"
            forget_old
            say "$release runs"
            exit 0
        fi
        compose "$release" ps --all >&2 || true
        [[ -n $before ]] || die "$release is not healthy, and there is no release before it"
        [[ $before != "$release" ]] || die "$release, which was there already, is not healthy: deploy.sh rollback goes back"
        say "$release is not healthy: going back to $before" >&2
        healthy "$before" || die "$before is not healthy either: this needs a person"
        die "rolled back to $before"
        ;;
    rollback)
        current=$(present current) previous=$(present previous)
        [[ -n $previous ]] || die "there is no release to go back to"
        say "going back from $current to $previous"
        healthy "$previous" || die "$previous is not healthy: this needs a person"
        point current "$previous"
        point previous "$current"
        say "$previous runs"
        ;;
    status)
        say "runs: $(present current); before it: $(present previous)"
        compose "$(present current)" ps --all
        ;;
    *) die "unknown command '$command'" ;;
esac
