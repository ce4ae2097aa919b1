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

# shellcheck source=scripts/debian_folders.sh
. scripts/debian_folders.sh

# Prints OTP's release and Python's version there.
versions() {
    inside "$1" erl -noinput -eval 'io:put_chars(erlang:system_info(otp_release)), halt().'
    printf '\t'
    inside "$1" python3 -c 'import platform; print(platform.python_version(), end="")'
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
        if inside "$folder" make -C /py_reactor "$target" >"$folder.$target.log" 2>&1 </dev/null; then
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
