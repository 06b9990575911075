# shellcheck shell=bash
# `bootstrap.sh minikube`: a cluster on this machine. Sourced by bootstrap.sh, which sets ROOT; env.sh has say, die and
# as_root. Needs minikube, kubectl, docker and curl; no Python.

MINIKUBE_PROFILE=${RELAIS_MINIKUBE_PROFILE:-relais}
MINIKUBE_DRIVER=${RELAIS_MINIKUBE_DRIVER:-docker}
MINIKUBE_CPUS=${RELAIS_MINIKUBE_CPUS:-4}
MINIKUBE_MEMORY_MB=${RELAIS_MINIKUBE_MEMORY_MB:-8192}
KEDA_VERSION=2.20.2
KEDA_MANIFEST=${RELAIS_KEDA_MANIFEST:-https://github.com/kedacore/keda/releases/download/v$KEDA_VERSION/keda-$KEDA_VERSION.yaml}
NAMESPACE=relais
ROLLOUT_TIMEOUT_S=${RELAIS_ROLLOUT_TIMEOUT_S:-900}
TUNNEL_TIMEOUT_S=60

minikube_usage() {
    cat <<END
usage: scripts/bootstrap.sh minikube [up] [--gpu] [--no-build] [--no-tunnel]
       scripts/bootstrap.sh minikube status | down [--delete]

  up       start or use a minikube cluster, install KEDA there if it is missing, build the images and load them, apply
           infra/minikube/overlays/minikube-cpu (or -gpu), wait until all of it is ready, open the tunnel, answer a first
           request. Again, it changes what has changed
  status   the pods, and the URL
  down     close the tunnel and stop the cluster; its data stays. --delete: the cluster and its data are gone

  --gpu         with an NVIDIA GPU; needs its driver and the NVIDIA Container Toolkit
  --no-build    the images are in the cluster already
  --no-tunnel   open it yourself: minikube tunnel --profile $MINIKUBE_PROFILE

Settings: RELAIS_MINIKUBE_PROFILE ($MINIKUBE_PROFILE)   RELAIS_MINIKUBE_DRIVER ($MINIKUBE_DRIVER)
  RELAIS_MINIKUBE_CPUS ($MINIKUBE_CPUS)   RELAIS_MINIKUBE_MEMORY_MB ($MINIKUBE_MEMORY_MB)
  RELAIS_KEDA_MANIFEST (KEDA $KEDA_VERSION's; a file, where the cluster is offline)
END
}

minikube_main() {
    local command=up gpu="" build=yes tunnel=yes delete=""
    if [[ ${1:-} =~ ^[a-z] ]]; then
        command=$1
        shift
    fi
    while (($#)); do
        case $command:$1 in
            *:-h | *:--help)
                minikube_usage
                return
                ;;
            up:--gpu) gpu=yes ;;
            up:--no-build) build="" ;;
            up:--no-tunnel) tunnel="" ;;
            down:--delete) delete=yes ;;
            *) usage_error minikube_usage "unknown argument '$1'" ;;
        esac
        shift
    done
    RUN_DIRECTORY=${RELAIS_RUN_DIR:-$ROOT/.run}/minikube
    OVERLAY=$ROOT/infra/minikube/overlays/minikube-${gpu:+gpu}
    [[ -n $gpu ]] || OVERLAY+=cpu
    TAGS=$RUN_DIRECTORY/$(basename "$OVERLAY").sed
    case $command in
        up) minikube_up "$gpu" "$build" "$tunnel" ;;
        status) minikube_status ;;
        down) minikube_down "$delete" ;;
        *) usage_error minikube_usage "unknown command 'minikube $command'" ;;
    esac
}

in_cluster() { kubectl --context "$MINIKUBE_PROFILE" --namespace "$NAMESPACE" "$@"; }

# --- what must be there -----------------------------------------------------------------------------------------------

require_for_minikube() { # require_for_minikube GPU BUILD
    local missing=()
    have() { command -v "$1" >/dev/null; }
    have minikube || missing+=("minikube: https://minikube.sigs.k8s.io/docs/start")
    have kubectl || missing+=("kubectl: https://kubernetes.io/docs/tasks/tools")
    have curl || missing+=("curl: sudo apt-get install curl")
    if [[ $MINIKUBE_DRIVER == docker || -n $2 ]]; then
        if ! have docker; then
            missing+=("docker: https://docs.docker.com/engine/install")
        elif ! docker info >/dev/null 2>&1; then
            missing+=("a Docker daemon that answers you: start it (sudo systemctl start docker), and be in the group docker")
        fi
    fi
    if [[ -n $1 ]]; then
        { have nvidia-smi && nvidia-smi -L 2>/dev/null | grep -q '^GPU'; } ||
            missing+=("an NVIDIA GPU with its driver: nvidia-smi finds none")
        if have docker && ! docker info --format '{{json .Runtimes}}' 2>/dev/null | grep -q nvidia; then
            missing+=("the NVIDIA Container Toolkit: Docker has no runtime nvidia")
        fi
    fi
    refuse_missing minikube ${missing[@]+"${missing[@]}"}
}

require_room_for_cluster() {
    local memory_mb
    (($(nproc) >= MINIKUBE_CPUS)) ||
        die "the cluster is to have $MINIKUBE_CPUS cores, and this machine has $(nproc): set RELAIS_MINIKUBE_CPUS" \
            "(under 4 not all pods may find room)"
    memory_mb=$(($(sed -n 's/^MemTotal: *\([0-9]*\) kB/\1/p' /proc/meminfo 2>/dev/null || echo 0) / 1024))
    ((memory_mb == 0 || memory_mb > MINIKUBE_MEMORY_MB)) ||
        die "the cluster is to have $MINIKUBE_MEMORY_MB MB, and this machine has $memory_mb MB:" \
            "set RELAIS_MINIKUBE_MEMORY_MB (under 6144 not all pods may find room)"
}

# --- up ---------------------------------------------------------------------------------------------------------------

minikube_up() { # minikube_up GPU BUILD TUNNEL
    require_for_minikube "$1" "$2"
    ensure_cluster "$1"
    ensure_keda
    [[ -z $2 ]] || load_images "$1"
    ensure_secrets
    say "applying ${OVERLAY#"$ROOT"/}"
    render | kubectl --context "$MINIKUBE_PROFILE" apply -f - >/dev/null || die "kubectl could not apply it (see above)"
    wait_for_rollouts
    if [[ -z $3 ]]; then
        say "ready; for a URL: minikube tunnel --profile $MINIKUBE_PROFILE"
        return
    fi
    open_tunnel
    first_request_to_cluster
    show_cluster
}

ensure_cluster() { # ensure_cluster GPU
    local options=()
    if [[ $(minikube status --profile "$MINIKUBE_PROFILE" --format '{{.Host}} {{.APIServer}}' 2>/dev/null) == "Running Running" ]]; then
        say "using the minikube cluster '$MINIKUBE_PROFILE'"
        return
    fi
    require_room_for_cluster
    [[ -z $1 ]] || options=(--gpus=all)
    say "starting the minikube cluster '$MINIKUBE_PROFILE' (minutes, the first time)"
    # Calico enforces NetworkPolicies; minikube's own network does not.
    minikube start --profile "$MINIKUBE_PROFILE" --driver "$MINIKUBE_DRIVER" --cpus "$MINIKUBE_CPUS" \
        --memory "${MINIKUBE_MEMORY_MB}m" --cni calico --addons metrics-server ${options[@]+"${options[@]}"} ||
        die "minikube did not start (see above)"
}

ensure_keda() {
    local deployments
    # Its operator, its metrics server and its webhook: an install that was interrupted has fewer, or no definitions. The
    # webhook judges what is applied next.
    deployments=$(kubectl --context "$MINIKUBE_PROFILE" get deployments --namespace keda --output name 2>/dev/null | grep -c .) || true
    if ((deployments < 3)) ||
        ! kubectl --context "$MINIKUBE_PROFILE" get customresourcedefinition scaledobjects.keda.sh >/dev/null 2>&1; then
        say "installing KEDA $KEDA_VERSION"
        # Its definitions are too long for a client's apply.
        kubectl --context "$MINIKUBE_PROFILE" apply --server-side -f "$KEDA_MANIFEST" >/dev/null ||
            die "KEDA could not be installed from $KEDA_MANIFEST; RELAIS_KEDA_MANIFEST may name a file"
    fi
    kubectl --context "$MINIKUBE_PROFILE" --namespace keda wait --for condition=Available deployment --all \
        --timeout "${ROLLOUT_TIMEOUT_S}s" >/dev/null ||
        die "KEDA does not become ready: kubectl --context $MINIKUBE_PROFILE -n keda get pods"
}

# In the cluster an image has its content in its tag: a rebuilt one is another one, and so is rolled out.
load_images() { # load_images GPU
    local llm=cpu image images id tagged there=""
    [[ -z $1 ]] || llm=cuda
    images=("relais/relais-orchestrator:local" "relais/relais-llm-worker:local-$llm" "relais/relais-embedding-worker:local"
        "relais/relais-kpi:local")
    "$ROOT/scripts/build_images.sh" orchestrator "llm-worker-$llm" embedding-worker kpi ||
        die "the images could not be built (see above)"
    there=$(minikube image ls --profile "$MINIKUBE_PROFILE" 2>/dev/null) || true
    mkdir -p "$RUN_DIRECTORY"
    : >"$RUN_DIRECTORY/images.new"
    for image in "${images[@]}"; do
        id=$(docker image inspect --format '{{.Id}}' "$image") || die "docker does not know $image (see above)"
        id=${id#sha256:}
        tagged=$image-${id:0:12}
        if ! grep -q "/$tagged\$" <<<"$there"; then
            say "loading $tagged into the cluster"
            docker tag "$image" "$tagged"
            minikube image load --profile "$MINIKUBE_PROFILE" "$tagged" || die "minikube could not load $tagged (see above)"
            docker image rm "$tagged" >/dev/null # the tag alone, which would keep the old image here
        fi
        printf 's|image: %s$|image: %s|\n' "$image" "$tagged" >>"$RUN_DIRECTORY/images.new"
    done
    mv "$RUN_DIRECTORY/images.new" "$TAGS"
}

render() { # the overlay, with the images that were loaded last
    local tags=/dev/null
    [[ ! -f $TAGS ]] || tags=$TAGS
    kubectl kustomize "$OVERLAY" | sed -f "$tags"
}

# Passwords are made once, here, and lie in a folder that git ignores.
ensure_secrets() {
    local redis mongodb
    [[ ! -d $OVERLAY/secrets ]] || return 0
    redis=$(random_hex) mongodb=$(random_hex)
    (
        umask 077
        rm -rf "$OVERLAY/secrets.new"
        mkdir "$OVERLAY/secrets.new" && cd "$OVERLAY/secrets.new" || exit 1
        printf 'REDIS_PASSWORD=%s\n' "$redis" >redis.env
        printf 'MONGODB_URL=mongodb://relais:%s@mongodb:27017/relais?authSource=admin\n' "$mongodb" >mongodb.env
        printf 'MONGO_INITDB_ROOT_USERNAME=relais\nMONGO_INITDB_ROOT_PASSWORD=%s\n' "$mongodb" >mongodb-root.env
    )
    # Half a folder must not pass for one.
    mv "$OVERLAY/secrets.new" "$OVERLAY/secrets"
    say "made passwords in ${OVERLAY#"$ROOT"/}/secrets"
}

wait_for_rollouts() {
    local one
    for one in statefulset/redis statefulset/mongodb deployment/orchestrator deployment/llm-worker deployment/embedding-worker; do
        say "waiting for $one"
        in_cluster rollout status "$one" --timeout "${ROLLOUT_TIMEOUT_S}s" >/dev/null && continue
        in_cluster get pods >&2 || true
        in_cluster get events --field-selector type=Warning --sort-by .lastTimestamp 2>/dev/null | tail -n 5 >&2 || true
        die "$one is not ready after $ROLLOUT_TIMEOUT_S s (pods and warnings above);" \
            "logs: kubectl --context $MINIKUBE_PROFILE -n $NAMESPACE logs $one"
    done
}

# --- the tunnel -------------------------------------------------------------------------------------------------------

tunnel_pid() { # prints the pid of our tunnel, if it runs
    local pid
    pid=$(cat "$RUN_DIRECTORY/tunnel.pid" 2>/dev/null) || return 1
    # A number that has become somebody else's is not ours to end.
    [[ -n $pid && $(tr '\0' ' ' <"/proc/$pid/cmdline" 2>/dev/null || ps -p "$pid" -o args= 2>/dev/null) == *minikube*tunnel* ]] ||
        return 1
    echo "$pid"
}

cluster_address() {
    in_cluster get service orchestrator --output 'jsonpath={.status.loadBalancer.ingress[0].ip}' 2>/dev/null
}

open_tunnel() {
    local waited=0 started=""
    if ! tunnel_pid >/dev/null; then
        mkdir -p "$RUN_DIRECTORY"
        # It adds a route, for which it asks sudo; in the background it could not ask for a password.
        if [[ $(id -u) != 0 ]] && ! sudo -n true 2>/dev/null; then
            if [[ -t 0 ]]; then
                say "minikube tunnel adds a route to the cluster, for which it needs root"
                sudo -v || die "without root: minikube tunnel --profile $MINIKUBE_PROFILE, in a terminal of its own"
            else
                die "minikube tunnel needs root, and nobody can be asked for a password here:" \
                    "run minikube tunnel --profile $MINIKUBE_PROFILE in a terminal"
            fi
        fi
        say "opening the tunnel"
        # In this session: sudo remembers the password for this terminal alone.
        nohup minikube tunnel --profile "$MINIKUBE_PROFILE" >"$RUN_DIRECTORY/tunnel.log" 2>&1 </dev/null &
        started=$!
        echo "$started" >"$RUN_DIRECTORY/tunnel.pid"
    fi
    until [[ -n $(cluster_address) ]]; do
        # What has only been started may not bear its name yet.
        { [[ -n $started ]] && kill -0 "$started" 2>/dev/null; } || tunnel_pid >/dev/null || die "the tunnel ended: $(tail -n 1 "$RUN_DIRECTORY/tunnel.log")"
        ((waited++ < TUNNEL_TIMEOUT_S)) ||
            die "the tunnel has given the service no address in $TUNNEL_TIMEOUT_S s: see $RUN_DIRECTORY/tunnel.log"
        sleep 1
    done
}

# --- what a person wants to see ---------------------------------------------------------------------------------------

first_request_to_cluster() {
    local url model answer
    url="http://$(cluster_address):8080"
    model=$(render | sed -n 's/^  MODELS: //p')
    curl -fsS --max-time 10 --retry 10 --retry-all-errors --retry-delay 1 "$url/readyz" >/dev/null ||
        die "nobody answers at $url: kubectl --context $MINIKUBE_PROFILE -n $NAMESPACE get pods"
    say "a first request to $model"
    # A model that KEDA has put to sleep wakes up for it.
    answer=$(curl -fsS --max-time "$ROLLOUT_TIMEOUT_S" "$url/v1/chat/completions" -H 'Content-Type: application/json' \
        -d "{\"model\": \"$model\", \"max_tokens\": 60, \"messages\": [{\"role\": \"user\", \"content\": \"The waiting time at the town hall is far too long.\"}]}") ||
        die "the first request failed: kubectl --context $MINIKUBE_PROFILE -n $NAMESPACE logs deployment/llm-worker"
    content_of "$answer"
}

show_cluster() {
    local url
    url="http://$(cluster_address):8080"
    cat <<END
ready:
  API        $url/v1        (any key, or none: ENV=dev)
  docs       $url/docs
  metrics    $url/metrics
  pods       kubectl --context $MINIKUBE_PROFILE -n $NAMESPACE get pods
  KPIs       kubectl --context $MINIKUBE_PROFILE -n $NAMESPACE create job --from cronjob/kpi kpi-now
  stop       ./scripts/bootstrap.sh minikube down
END
}

minikube_status() {
    require_for_minikube "" ""
    in_cluster get pods || exit 1
    [[ -n $(cluster_address) ]] || die "no tunnel: minikube tunnel --profile $MINIKUBE_PROFILE"
    show_cluster
}

minikube_down() { # minikube_down DELETE
    local pid
    command -v minikube >/dev/null || die "minikube is missing: there is no cluster of ours to stop"
    if pid=$(tunnel_pid); then
        say "closing the tunnel"
        kill "$pid" 2>/dev/null || $(as_root) kill "$pid" 2>/dev/null || true
    fi
    rm -f "$RUN_DIRECTORY/tunnel.pid"
    if [[ -n $1 ]]; then
        minikube delete --profile "$MINIKUBE_PROFILE" || die "minikube could not delete the cluster (see above)"
        rm -rf "$ROOT"/infra/minikube/overlays/minikube-*/secrets "$RUN_DIRECTORY"/*.sed
        say "the cluster '$MINIKUBE_PROFILE' and its data are gone"
    else
        minikube stop --profile "$MINIKUBE_PROFILE" || die "minikube could not stop the cluster (see above)"
        say "stopped; its data stays (--delete removes it)"
    fi
}
