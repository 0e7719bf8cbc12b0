#!/bin/sh
# Installs the newest released aios on Linux or macOS: looks what machine this is, downloads its archive, compares the
# SHA-256, tries the program and puts it into ~/.local/bin. Nothing is changed but that one file; no root.
#
#   AIOS_INSTALL_DIR   another folder
#   AIOS_RELEASES      where archives lie, such as a mirror; .../releases/download/v0.2.0 is one version
set -eu

# The release workflow fills it in.
releases=${AIOS_RELEASES:-@RELEASES@}
folder=${AIOS_INSTALL_DIR:-$HOME/.local/bin}

fail() {
    echo "install aios: $*" >&2
    exit 1
}

has() { command -v "$1" >/dev/null 2>&1; }

target() {
    case "$(uname -s) $(uname -m)" in
        "Linux x86_64" | "Linux amd64") linux x86_64 ;;
        "Linux aarch64" | "Linux arm64") linux aarch64 ;;
        "Darwin arm64") echo aarch64-apple-darwin ;;
        *) fail "there is no archive for $(uname -s) on $(uname -m); build it from source: cargo install --path . in a clone" ;;
    esac
}

linux() {
    # musl's program loader says its name and fails.
    case "$(ldd --version 2>&1 || true)" in
        *musl*) fail "the archives are for glibc, and this system has musl; build it from source: cargo install --path . in a clone" ;;
    esac
    echo "$1-unknown-linux-gnu"
}

download() {
    if has curl; then
        curl --fail --silent --show-error --location --output "$2" "$1"
    elif has wget; then
        wget --quiet --output-document="$2" "$1"
    else
        fail "neither curl nor wget is installed"
    fi || fail "cannot download $1"
}

sha256() {
    if has sha256sum; then
        sha256sum "$1"
    elif has shasum; then
        shasum --algorithm 256 "$1"
    else
        fail "neither sha256sum nor shasum is installed, so that the download cannot be verified"
    fi
}

# The digest in a file of sha256sum's, in small letters; its line may lack an end.
digest() {
    first=
    read -r first _ <"$1" || true
    first=$(printf %s "$first" | tr A-F a-f)
    case $first in
        *[!0-9a-f]*) first= ;;
    esac
    [ ${#first} -eq 64 ] || fail "$releases/$name.tar.gz.sha256 holds no SHA-256: nothing was installed"
    echo "$first"
}

# Of what was half done; a shell that is killed does not see its EXIT.
clean_up() {
    rm -rf "$scratch"
    [ -z "$new" ] || rm -f "$new"
}

main() {
    case $releases in @*) fail "this file is a template: take install.sh of a release, or set AIOS_RELEASES" ;; esac
    name="aios-$(target)"
    [ ! -d "$folder/aios" ] || fail "$folder/aios is a folder: set AIOS_INSTALL_DIR to another place"
    new=
    scratch=$(mktemp -d)
    trap clean_up EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
    echo "downloading $releases/$name.tar.gz"
    download "$releases/$name.tar.gz" "$scratch/$name.tar.gz"
    download "$releases/$name.tar.gz.sha256" "$scratch/wanted"
    wanted=$(digest "$scratch/wanted")
    found=$(sha256 "$scratch/$name.tar.gz")
    [ "$wanted" = "${found%% *}" ] || fail "the archive's SHA-256 is ${found%% *}, not $wanted: nothing was installed"
    tar -xzf "$scratch/$name.tar.gz" -C "$scratch"
    version=$("$scratch/$name/aios" --version) ||
        fail "the program does not run here (Linux needs glibc 2.28 or newer): nothing was installed"
    mkdir -p "$folder"
    if [ -e "$folder/aios" ]; then
        # Whatever goes by that name: it may wait for input, and say anything.
        old=$("$folder/aios" --version </dev/null 2>/dev/null | LC_ALL=C sed -n '1s/^aios [0-9][[:print:]]*$/&/p')
        echo "replacing ${old:-aios of an unknown version}"
    fi
    # Renamed, so that one that runs is not written into; under a name that nobody has, which could be a link.
    new=$(mktemp "$folder/.aios.XXXXXX")
    cp "$scratch/$name/aios" "$new"
    chmod 755 "$new"
    mv -f "$new" "$folder/aios"
    new=
    echo "installed $version: $folder/aios"
    case ":$PATH:" in
        *":$folder:"*) ;;
        *) echo "$folder is not on your PATH; add to your shell's start file: export PATH=\"$folder:\$PATH\"" ;;
    esac
}

# At the end, so that half a download does nothing.
main
