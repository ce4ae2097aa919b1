#!/usr/bin/env bash
# Runs `make test' on other releases of Debian, each in a folder of its own (debootstrap, chroot), which stays for the next
# time. Needs root. Prints one table at the end, with a line for each Python of each release: `make test' runs with the
# release's `python3', its core of Common Test with the newer ones. Exits with 1 if anything failed.
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
    inside "$1" python3 -c 'import platform; print(platform.python_version())'
}

# A line for each Python that Common Test was run with: its version, and the cases that passed.
cases() { # the folder of lanes.py, the version of `python3'
    { echo "Python $2 (the usual)"; cat "$1/test-ct.log" "$1/test-matrix.log"; } | awk '
        /^Python [0-9.]+ \(/ { version = $2 }
        match($0, /All [0-9]+ tests passed|Passed [0-9]+ tests/) {
            split(substr($0, RSTART, RLENGTH), word, " ")
            print version "\t" word[2]
        }'
}

table=()
status=0
for platform in $platforms; do
    folder=$root/$platform
    lanes=$folder/py_reactor/_build/lanes
    began=$SECONDS
    result=failed
    otp=- python=-
    if prepare "$platform" "$folder"; then
        IFS=$'\t' read -r otp python < <(versions "$folder")
        echo "py_reactor: $platform (OTP $otp, Python $python): make $target; the log is $folder.$target.log, those of its parts in $lanes"
        rm -rf "$lanes"
        if inside "$folder" make -C /py_reactor "$target" >"$folder.$target.log" 2>&1 </dev/null; then
            result=passed
        else
            tail -30 "$folder.$target.log" >&2
        fi
    fi
    [ "$result" = passed ] || status=1
    table+=("$platform"$'\t'"$otp"$'\t'"$python"$'\t'"$result"$'\t'"$((SECONDS - began)) s")
    while IFS=$'\t' read -r version count; do
        table+=("  Common Test"$'\t'"$otp"$'\t'"$version"$'\t'"$count passed"$'\t')
    done < <(cases "$lanes" "$python" 2>/dev/null)
    unmount_all
done

{
    printf 'platform\tOTP\tPython\tmake %s\ttime\n' "$target"
    printf '%s\n' "${table[@]}"
} | column -t -s $'\t'
exit "$status"
