#!/usr/bin/env bash
# Makes a release in this checkout: version, changelog, commit, tag. `scripts/release.sh --help` says how.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PROGRAM=release
# shellcheck source-path=SCRIPTDIR/..
. "$ROOT/scripts/lib/env.sh"
cd "$ROOT"

MANIFEST=infra/minikube/overlays/production/kustomization.yaml

usage() {
    cat <<'END'
usage: scripts/release.sh [--dry-run] [--images] X.Y.Z

  --dry-run   show what would change, and change nothing
  --images    build the images, too, tagged vX.Y.Z (scripts/build_images.sh; CI builds and pushes those of a pushed tag)

Writes X.Y.Z as the version, turns "Unreleased" in CHANGELOG.md into "X.Y.Z - <today>", names the images' tag in the
production manifests, commits, and makes the annotated tag vX.Y.Z. It pushes nothing; it prints the command that does.
Needs the branch main with nothing uncommitted. Run the checks first (scripts/test.sh).
END
}

dry_run=false images=false version=""
while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --dry-run) dry_run=true ;;
        --images) images=true ;;
        *)
            [[ -z $version ]] || { usage >&2; exit 2; }
            version=$1
            ;;
    esac
    shift
done
[[ $version =~ ^[0-9]+\.[0-9]+\.[0-9]+$ ]] || { usage >&2; exit 2; }
tag=v$version
now=$(relais_version)

[[ $(git branch --show-current) == main ]] || die "releases are made on main; this is $(git branch --show-current)"
[[ -z $(git status --porcelain) ]] || die "there are uncommitted changes: commit or stash them"
! git rev-parse --quiet --verify "refs/tags/$tag" >/dev/null || die "there is a tag $tag already"
[[ $(printf '%s\n' "$now" "$version" | sort -V | tail -n 1) == "$version" ]] || die "$version comes before the present version, $now"

# What is under a heading of the changelog.
section() { awk -v heading="## $1" 'index($0, "## ") == 1 { on = ($0 == heading || index($0, heading " - ") == 1); next } on && NF' CHANGELOG.md; }

# The heading of a first release may be there before its tag.
headed=false
if grep -q "^## $version - " CHANGELOG.md; then headed=true; fi
if $headed; then
    [[ -z $(section Unreleased) ]] || die "CHANGELOG.md has $version already, and lines under Unreleased: move them"
else
    [[ -n $(section Unreleased) ]] || die "CHANGELOG.md has nothing under Unreleased"
fi

write() {
    sed -i "s/^__version__ = .*/__version__ = \"$version\"/" "$VERSION_FILE"
    $headed || sed -i "s/^## Unreleased\$/## Unreleased\n\n## $version - $(date -u +%F)/" CHANGELOG.md
    sed -i -E "s/^(    newTag: )v?[0-9.]+(-cuda|-remote)?\$/\1$tag\2/" "$MANIFEST"
}

if $dry_run; then
    trap 'git checkout --quiet -- "$VERSION_FILE" CHANGELOG.md "$MANIFEST"' EXIT
    write
    git --no-pager diff --no-color
    say "would commit this as \"Release $version\", and tag it $tag"
    exit 0
fi
write
if [[ -n $(git status --porcelain) ]]; then git commit --quiet --all --message "Release $version"; fi
git tag --annotate --message "Relais $version" "$tag"
say "$tag is made; nothing is pushed. To publish it: git push origin main $tag"
if $images; then
    CI_API_IMAGE_TAG=$tag CI_VLLM_IMAGE_TAG=$tag scripts/build_images.sh all
fi
