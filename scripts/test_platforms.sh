#!/usr/bin/env bash
# Runs `make test' on other releases of Debian, each in a folder of its own (debootstrap, chroot), which stays for the next
# time. Needs root. Prints one table at the end, and exits with 1 if any of them failed.
#
#   PLATFORMS        which (trixie forky)
#   PLATFORMS_DIR    where their folders are (_build/platforms)
#   TARGET           what is made in them (test)
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

platforms=${PLATFORMS:-trixie forky}
root=${PLATFORMS_DIR:-$PWD/_build/platforms}
target=${TARGET:-test}

if [ "$(id -u)" != 0 ]; then
    echo "py_reactor: make test-platforms needs root, for debootstrap and chroot: sudo make test-platforms" >&2
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

# Prints OTP's release and Python's version there.
versions() {
    chroot "$1" erl -noinput -eval 'io:put_chars(erlang:system_info(otp_release)), halt().'
    printf '\t'
    chroot "$1" python3 -c 'import platform; print(platform.python_version(), end="")'
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

table=()
status=0
for platform in $platforms; do
    folder=$root/$platform
    began=$SECONDS
    result=failed
    version=$'-\t-'
    if prepare "$platform" "$folder"; then
        version=$(versions "$folder")
        echo "py_reactor: $platform (OTP and Python ${version/$'\t'/, }): make $target; the log is $folder.$target.log"
        if chroot "$folder" env -i HOME=/root TERM=dumb LANG=C.UTF-8 CARGO_HOME=/rust/cargo RUSTUP_HOME=/rust/rustup \
            PATH=/rust/cargo/bin:/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin \
            make -C /py_reactor "$target" >"$folder.$target.log" 2>&1 </dev/null; then
            result=passed
        else
            tail -30 "$folder.$target.log" >&2
        fi
    fi
    [ "$result" = passed ] || status=1
    cases=$(sed -nE 's/.*All ([0-9]+) tests passed.*/\1/p' "$folder.$target.log" 2>/dev/null | tail -1)
    table+=("$platform"$'\t'"$version"$'\t'"$result"$'\t'"${cases:--}"$'\t'"$((SECONDS - began)) s")
    unmount_all
done

{
    printf 'platform\tOTP\tPython\tmake %s\tcases of Common Test\ttime\n' "$target"
    printf '%s\n' "${table[@]}"
} | column -t -s $'\t'
exit "$status"
