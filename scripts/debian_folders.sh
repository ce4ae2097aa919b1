#!/usr/bin/env bash
# Releases of Debian in folders of their own (debootstrap, chroot), for scripts that source this file after they have set
# `root', the folder of these folders. Needs root.
#
#   prepare RELEASE FOLDER         installs it, unless it is there; mounts what it needs; copies this checkout into it
#   inside FOLDER COMMAND...       runs a command there, with this machine's Rust
#   unmount_all                    takes the mounts away again

if [ "$(id -u)" != 0 ]; then
    echo "py_reactor: this needs root, for debootstrap and chroot: sudo make ..." >&2
    exit 1
fi
if ! command -v debootstrap >/dev/null; then
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends debootstrap
fi

# Rust comes from this machine: no release of Debian has to have one that is new enough.
cargo_home=${CARGO_HOME:-$HOME/.cargo}
rustup_home=${RUSTUP_HOME:-$HOME/.rustup}

packages=(build-essential ca-certificates curl git make procps rebar3 python3 python3-dev python3-venv
    erlang-base erlang-dev erlang-dialyzer erlang-common-test erlang-eunit erlang-tools erlang-parsetools
    erlang-crypto erlang-ssl erlang-inets erlang-syntax-tools erlang-runtime-tools erlang-public-key)

mounted=()
unmount_all() {
    for ((i = ${#mounted[@]} - 1; i >= 0; i--)); do
        umount -l "${mounted[i]}" || true
    done
    mounted=()
}
trap unmount_all EXIT

mount_into() { # what, folder, options
    mkdir -p "$2"
    mount "${@:3}" "$1" "$2"
    mounted+=("$2")
}

prepare() { # release, folder
    if [ ! -e "$2/ready" ]; then
        echo "py_reactor: $1: installing into $2"
        rm -rf "$2"
        mkdir -p "$2"
        # A release that this debootstrap does not know yet is set up as unstable is. Empty: the usual mirror.
        local script=/usr/share/debootstrap/scripts/$1
        [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
        debootstrap --variant=minbase "$1" "$2" "" "$script" >"$2.log" 2>&1 || { tail -20 "$2.log" >&2; return 1; }
        chroot "$2" apt-get update >>"$2.log" 2>&1
        DEBIAN_FRONTEND=noninteractive chroot "$2" \
            apt-get install -y --no-install-recommends "${packages[@]}" >>"$2.log" 2>&1 || { tail -20 "$2.log" >&2; return 1; }
        touch "$2/ready"
    fi
    # What this machine trusts, for pip and cargo.
    cp /etc/ssl/certs/ca-certificates.crt "$2/etc/ssl/certs/ca-certificates.crt"
    cp -L /etc/resolv.conf "$2/etc/resolv.conf"
    mount_into proc "$2/proc" -t proc
    mount_into /dev "$2/dev" --rbind
    mount_into "$cargo_home" "$2/rust/cargo" --bind
    mount_into "$rustup_home" "$2/rust/rustup" --bind
    rm -rf "$2/py_reactor/src"
    bash scripts/copy_checkout.sh "$2/py_reactor"
}

inside() { # folder, command...
    chroot "$1" env -i HOME=/root TERM=dumb LANG=C.UTF-8 CARGO_HOME=/rust/cargo RUSTUP_HOME=/rust/rustup \
        PATH=/rust/cargo/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "${@:2}"
}
