#!/usr/bin/env bash
# Pins base images to the digests behind their tags. `scripts/pin_images.sh --help` says how.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PROGRAM=pin_images
# shellcheck source-path=SCRIPTDIR/..
. "$ROOT/scripts/lib/env.sh"
FILE=${BASE_IMAGES_FILE:-$ROOT/infra/base-images.txt}

usage() {
    cat <<'END'
usage: scripts/pin_images.sh [--check | --print NAME]

  without argument  pull each image of infra/base-images.txt by its tag, and write the digest behind it into that file
  --check           end with 1 where an image has no digest
  --print NAME      print the image whose name is NAME as it stands there

Needs a Docker engine that reaches the images' registry. Commit the file once the images were looked at.
END
}

images() { grep -v '^\(#\|$\)' "$FILE"; }

digest_of() { # digest_of NAME:TAG: of the list of all platforms, where there is one
    docker pull --quiet "$1" >/dev/null || die "$1 cannot be pulled; nothing was changed"
    docker image inspect --format '{{range .RepoDigests}}{{println .}}{{end}}' "$1" |
        sed -n "s|^\(docker\.io/\)\?\(library/\)\?${1%:*}@\(sha256:[0-9a-f]\{64\}\)$|\3|p" | head -n 1
}

case ${1:-} in
    -h | --help) usage ;;
    --check)
        if unpinned=$(images | grep -v '@sha256:[0-9a-f]\{64\}$'); then
            die "not pinned to a digest: $unpinned"
        fi
        ;;
    --print)
        images | grep "^${2:?--print takes a name}:" || die "there is no base image '$2' in $FILE"
        ;;
    "")
        pinned=""
        while read -r image; do
            tag=${image%@*}
            digest=$(digest_of "$tag")
            [[ -n $digest ]] || die "$tag has no digest: it did not come from a registry; nothing was changed"
            pinned+=$tag@$digest$'\n'
        done < <(images)
        { grep '^#' "$FILE" && printf '%s' "$pinned"; } >"$FILE.new"
        mv "$FILE.new" "$FILE"
        say "pinned: ${pinned//$'\n'/ }"
        ;;
    *)
        usage >&2
        exit 2
        ;;
esac
