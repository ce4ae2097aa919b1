#!/usr/bin/env bash
# Copies this checkout, with what is not committed yet and without what is ignored, into the directory that is named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

mkdir -p "$1"
git ls-files --cached --others --exclude-standard -z | tar --null -T - --ignore-failed-read -cf - 2>/dev/null | tar -C "$1" -xf -
