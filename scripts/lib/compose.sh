# shellcheck shell=bash
# `bootstrap.sh compose`: all of it in containers on this machine. Sourced by bootstrap.sh, which sets ROOT; env.sh has say
# and die. Needs Docker with its Compose plugin, and curl; no Python.

COMPOSE_FOLDER=$ROOT/infra/compose
COMPOSE_TIMEOUT_S=${RELAIS_COMPOSE_TIMEOUT_S:-1800}

compose_usage() {
    cat <<'END'
usage: scripts/bootstrap.sh compose [up] [--no-build]
       scripts/bootstrap.sh compose status | logs [SERVICE...] | kpi | down [--volumes]

  up       make infra/compose/.env if there is none, build the images, start what COMPOSE_PROFILES of it names, wait until
           all of it is ready, answer a first request of each kind. Again, it changes what has changed
  status   the containers, and the URLs
  logs     the last lines of all, or of some
  kpi      one run of the KPI job: traces into hourly rollups
  down     stop and remove the containers; the data stays. --volumes: the data and the downloaded models are gone

  --no-build   the images are there, or are pulled: CI_REGISTRY_IMAGE, CI_API_IMAGE_TAG, CI_VLLM_IMAGE_TAG

Settings: infra/compose/.env; infra/compose/README.md says more. RELAIS_API_KEY: the key of the first request, outside ENV=dev.
END
}

compose_main() {
    local command=up build=yes volumes="" services=()
    if [[ ${1:-} =~ ^[a-z] ]]; then
        command=$1
        shift
    fi
    while (($#)); do
        case $command:$1 in
            *:-h | *:--help)
                compose_usage
                return
                ;;
            up:--no-build) build="" ;;
            down:--volumes) volumes=yes ;;
            logs:[a-z]*) services+=("$1") ;;
            *) usage_error compose_usage "unknown argument '$1'" ;;
        esac
        shift
    done
    case $command in
        up) compose_up "$build" ;;
        status) compose_status ;;
        logs)
            require_for_compose
            in_compose logs --tail 50 ${services[@]+"${services[@]}"}
            ;;
        kpi)
            require_for_compose
            in_compose run --rm kpi
            ;;
        down)
            require_for_compose
            # Whatever profile it was started with.
            in_compose --profile '*' down --remove-orphans ${volumes:+--volumes}
            ;;
        *) usage_error compose_usage "unknown command 'compose $command'" ;;
    esac
}

# compose.yaml there, and compose.override.yaml where somebody has one.
in_compose() { docker compose --project-directory "$COMPOSE_FOLDER" "$@"; }

# --- what must be there -----------------------------------------------------------------------------------------------

require_for_compose() {
    local missing=()
    command -v curl >/dev/null || missing+=("curl: sudo apt-get install curl")
    look_for_docker
    refuse_missing compose ${missing[@]+"${missing[@]}"}
}

# --- up ---------------------------------------------------------------------------------------------------------------

compose_up() { # compose_up BUILD
    require_for_compose
    ensure_env_file
    in_compose config --quiet || die "infra/compose/.env is not complete (see above)"
    [[ -z $1 ]] || build_for_compose
    say "starting, and waiting until all of it is ready"
    in_compose up --detach --wait --wait-timeout "$COMPOSE_TIMEOUT_S" --no-build --remove-orphans || {
        in_compose ps --all >&2
        die "not all of it is ready (see above): ./scripts/bootstrap.sh compose logs SERVICE"
    }
    first_requests_to_compose
    show_compose
}

# Its passwords are made once, here; git ignores the file.
ensure_env_file() {
    local one
    [[ ! -f $COMPOSE_FOLDER/.env ]] || return 0
    (
        umask 077
        while IFS= read -r one; do
            case $one in
                REDIS_PASSWORD=* | MONGODB_PASSWORD=*) one="${one%%=*}=$(random_hex)" ;;
            esac
            printf '%s\n' "$one"
        done <"$COMPOSE_FOLDER/.env.example" >"$COMPOSE_FOLDER/.env.new"
    )
    mv "$COMPOSE_FOLDER/.env.new" "$COMPOSE_FOLDER/.env"
    say "made infra/compose/.env from .env.example, with passwords of its own"
}

# The images of the services that the profiles name, with the prefix and tags of the same settings.
build_for_compose() {
    local service names=()
    for service in $(in_compose config --services) kpi; do
        case $service in
            orchestrator | embedding-worker | kpi) names+=("$service") ;;
            llm-worker) names+=(llm-worker-cpu) ;;
            llm-worker-gpu) names+=(llm-worker-cuda) ;;
            llm-worker-remote) names+=(llm-worker-remote) ;;
        esac
    done
    say "building ${names[*]} (the first time minutes, and some GB)"
    CI_REGISTRY_IMAGE=$(compose_setting CI_REGISTRY_IMAGE) CI_API_IMAGE_TAG=$(compose_setting CI_API_IMAGE_TAG) \
        CI_VLLM_IMAGE_TAG=$(compose_setting CI_VLLM_IMAGE_TAG) "$ROOT/scripts/build_images.sh" "${names[@]}" ||
        die "the images could not be built (see above)"
}

compose_setting() { # compose_setting NAME: of the environment, or else of .env
    if [[ -v $1 ]]; then
        printf '%s' "${!1}"
    else
        sed -n "s/^$1=//p" "$COMPOSE_FOLDER/.env" | tail -n 1
    fi
}

# --- what a person wants to see ---------------------------------------------------------------------------------------

compose_url() {
    local address
    address=$(in_compose port orchestrator 8080) || return 1
    printf 'http://%s' "${address/#0.0.0.0:/localhost:}" | sed 's#//127\.0\.0\.1:#//localhost:#'
}

ask_compose() { # ask_compose PATH BODY
    curl -fsS --noproxy '*' --max-time 300 "$(compose_url)$1" -H 'Content-Type: application/json' \
        -H "Authorization: Bearer ${RELAIS_API_KEY:-bootstrap}" -d "$2"
}

first_requests_to_compose() {
    local models model vectors answer
    models=$(compose_setting MODELS)
    model=${models%%,*}
    if [[ $(compose_setting ENV) =~ ^(staging|prod)$ && -z ${RELAIS_API_KEY:-} ]]; then
        say "no first request: RELAIS_API_KEY names no key for it"
        return
    fi
    if [[ -n $model ]]; then
        say "a first request to $model"
        answer=$(ask_compose /v1/chat/completions "{\"model\": \"$model\", \"max_tokens\": 60, \"temperature\": 0, \"messages\": [
            {\"role\": \"user\", \"content\": \"Bonjour, le temps d'attente à la mairie est beaucoup trop long.\"}]}") ||
            die "the first request failed: ./scripts/bootstrap.sh compose logs"
        content_of "$answer"
    fi
    vectors=$(in_compose exec -T orchestrator printenv EMBEDDING_MODELS) || vectors=""
    if [[ -n $vectors ]]; then
        answer=$(ask_compose /v1/embeddings "{\"model\": \"${vectors%%,*}\", \"input\": \"The queue at the town hall was far too long.\"}") ||
            die "the first request for a vector failed: ./scripts/bootstrap.sh compose logs embedding-worker"
        say "a vector from ${vectors%%,*}: ${answer:0:100}..."
    fi
}

show_compose() {
    local url
    url=$(compose_url)
    cat <<END
ready:
  API        $url/v1        (ENV=$(in_compose exec -T orchestrator printenv ENV || echo dev))
  docs       $url/docs
  metrics    $url/metrics
  KPIs       ./scripts/bootstrap.sh compose kpi
  logs       ./scripts/bootstrap.sh compose logs SERVICE
  stop       ./scripts/bootstrap.sh compose down
END
}

compose_status() {
    require_for_compose
    in_compose ps --all
    compose_url >/dev/null 2>&1 || die "it does not run: ./scripts/bootstrap.sh compose"
    show_compose
}
