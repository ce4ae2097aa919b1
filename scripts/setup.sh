#!/usr/bin/env bash
# Installs what the build and the tests need and this machine lacks: as root on Debian with apt-get; else it says what
# to install, and exits with 1. Quick when nothing is missing. setup.sh COMMAND[,COMMAND]:PACKAGE ...: and
# one of these commands each.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

OLDEST_OTP=25
packages=()

need_command() { # command, or several of which one is enough (a,b), packages that bring it
    IFS=, read -ra names <<<"$1"
    command -v "${names[@]}" >/dev/null || packages+=("${@:2}")
}

# The applications of OTP that the build and the tests use, one Debian package each.
erlang_problem() {
    erl -noinput -eval '
        Old = list_to_integer(erlang:system_info(otp_release)) < list_to_integer(os:getenv("OLDEST_OTP")),
        Packages = [{dialyzer, "erlang-dialyzer"}, {common_test, "erlang-common-test"}, {eunit, "erlang-eunit"},
                    {tools, "erlang-tools"}, {parsetools, "erlang-parsetools"}, {crypto, "erlang-crypto"},
                    {ssl, "erlang-ssl"}, {inets, "erlang-inets"}, {syntax_tools, "erlang-syntax-tools"},
                    {runtime_tools, "erlang-runtime-tools"}, {public_key, "erlang-public-key"}],
        Missing = [Package || {App, Package} <- Packages, is_tuple(code:lib_dir(App))],
        io:put_chars(lists:join(" ", [["old"] || Old] ++ Missing)),
        halt().'
}

need_command cc build-essential
need_command make make
need_command curl curl
if command -v erl >/dev/null; then
    missing=$(OLDEST_OTP=$OLDEST_OTP erlang_problem)
    case $missing in
        old*)
            echo "py_reactor: Erlang/OTP $OLDEST_OTP or newer is needed, and this one is older" >&2
            exit 1
            ;;
    esac
    # shellcheck disable=SC2206 # one word is one package
    packages+=($missing)
else
    packages+=(erlang-base erlang-dev erlang-dialyzer erlang-common-test erlang-eunit erlang-tools erlang-parsetools
        erlang-crypto erlang-ssl erlang-inets erlang-syntax-tools erlang-runtime-tools erlang-public-key)
fi
need_command rebar3 rebar3

# A Python that PYTHON names is the user's own affair; the system's we can complete.
if ! python_problem=$(bash scripts/find_python.sh 2>&1 >/dev/null); then
    if [ -n "${PYTHON:-}" ]; then
        echo "$python_problem" >&2
        exit 1
    fi
    packages+=(python3 python3-dev python3-venv)
elif ! "$(bash scripts/find_python.sh)" -c 'import ensurepip, venv' 2>/dev/null; then
    packages+=(python3-venv)
fi

for pair in "$@"; do
    need_command "${pair%%:*}" "${pair#*:}"
done

if [ ${#packages[@]} -gt 0 ]; then
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        echo "py_reactor: these are missing. On Debian:" >&2
        echo "    sudo apt-get install --no-install-recommends ${packages[*]}" >&2
        exit 1
    fi
    echo "py_reactor: installing ${packages[*]}"
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${packages[@]}"
    bash scripts/find_python.sh >/dev/null
fi

if ! command -v cargo >/dev/null; then
    echo "py_reactor: Rust is missing. Install it from https://rustup.rs" >&2
    exit 1
fi
