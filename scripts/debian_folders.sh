#!/usr/bin/env bash
# Releases of Debian in folders of their own (debootstrap, chroot), for scripts that source this file after they have set
# `root', the folder of these folders. Needs root.
#
#   prepare RELEASE FOLDER         installs it with all its Pythons from `python3' on, unless it is there; mounts what it
#                                  needs; copies this checkout into it
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

packages=(build-essential ca-certificates curl git iproute2 make procps rebar3 python3 python3-dev python3-venv
    erlang-base erlang-dev erlang-dialyzer erlang-common-test erlang-eunit erlang-tools erlang-parsetools
    erlang-crypto erlang-ssl erlang-inets erlang-syntax-tools erlang-runtime-tools erlang-public-key)

# The Pythons of the release in a folder, from its `python3' on, one a line: `python3.14', `python3.15'.
pythons_of() { # folder
    local usual
    usual=$(inside "$1" python3 -c 'import sys; print(sys.version_info.minor)')
    inside "$1" apt-cache search --names-only '^python3\.[0-9]+$' | sed -nE 's/^(python3\.([0-9]+)) .*/\2 \1/p' |
        sort -n | awk -v usual="$usual" '$1 >= usual {print $2}'
}

prepared=()
unmount_all() {
    local folder
    for folder in "${prepared[@]}"; do
        unmount_under "$folder"
    done
    prepared=()
}
trap unmount_all EXIT

unmount_under() { # folder
    awk -v folder="$1/" 'index($2, folder) == 1 {print $2}' /proc/self/mounts | tac | xargs -r umount -l || true
}

mount_into() { # what, folder, options
    mkdir -p "$2"
    mount "${@:3}" "$1" "$2"
    # What is unmounted there is not unmounted here.
    mount --make-rslave "$2"
}

install_into() { # folder, packages...
    DEBIAN_FRONTEND=noninteractive chroot "$1" apt-get install -y --no-install-recommends "${@:2}" >>"$1.log" 2>&1 ||
        { tail -20 "$1.log" >&2; return 1; }
}

prepare() { # release, folder
    mkdir -p "$(dirname "$2")"
    exec 9>"$2.lock"
    flock -n 9 || { echo "py_reactor: $2 is used by another run" >&2; return 1; }
    # A run that was killed left its mounts: nothing is removed through them.
    unmount_under "$2"
    if [ ! -e "$2/debian" ]; then
        echo "py_reactor: $1: installing into $2"
        rm -rf "$2"
        mkdir -p "$2"
        # A release that this debootstrap does not know yet is set up as unstable is. Empty: the usual mirror.
        local script=/usr/share/debootstrap/scripts/$1
        [ -e "$script" ] || script=/usr/share/debootstrap/scripts/sid
        debootstrap --variant=minbase "$1" "$2" "" "$script" >"$2.log" 2>&1 || { tail -20 "$2.log" >&2; return 1; }
        touch "$2/debian"
    fi
    local wanted
    wanted=$(cksum <scripts/debian_folders.sh)
    if [ "$(cat "$2/ready" 2>/dev/null)" != "$wanted" ]; then
        echo "py_reactor: $1: installing packages"
        # A mirror that lags has what is wanted here, too; debootstrap does not ask for its date either.
        chroot "$2" apt-get -o Acquire::Check-Valid-Until=false update >>"$2.log" 2>&1 || { tail -20 "$2.log" >&2; return 1; }
        install_into "$2" "${packages[@]}" || return 1
        local python
        for python in $(pythons_of "$2"); do
            install_into "$2" "$python" "$python-dev" "$python-venv" "lib$python-testsuite" || return 1
        done
        echo "$wanted" >"$2/ready"
    fi
    # What this machine trusts, for pip and cargo.
    cp /etc/ssl/certs/ca-certificates.crt "$2/etc/ssl/certs/ca-certificates.crt"
    cp -L /etc/resolv.conf "$2/etc/resolv.conf"
    prepared+=("$2")
    mount_into proc "$2/proc" -t proc
    mount_into /dev "$2/dev" --rbind
    mount_into "$cargo_home" "$2/rust/cargo" --bind
    mount_into "$rustup_home" "$2/rust/rustup" --bind
    # What was built stays; of the sources, none that this checkout no longer has.
    mkdir -p "$2/py_reactor"
    find "$2/py_reactor" -mindepth 1 -maxdepth 1 ! -name _build ! -name priv ! -name target ! -name .venv -exec rm -rf {} +
    bash scripts/copy_checkout.sh "$2/py_reactor"
}

# What stays behind of what runs there, as epmd does, holds no lock.
inside() { # folder, command...
    chroot "$1" env -i HOME=/root TERM=dumb LANG=C.UTF-8 CARGO_HOME=/rust/cargo RUSTUP_HOME=/rust/rustup \
        PATH=/rust/cargo/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin "${@:2}" 9>&-
}
