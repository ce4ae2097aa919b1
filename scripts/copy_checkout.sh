#!/usr/bin/env bash
# Copies this checkout, with what is not committed and without what is ignored, into the directory that is named. The
# checkout may itself be such a copy: no repository is needed, only git, which knows how to read .gitignore.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

repository=$(mktemp -d)
trap 'rm -rf "$repository"' EXIT
git init --quiet --bare "$repository"
mkdir -p "$1"
GIT_DIR=$repository GIT_WORK_TREE=$PWD git ls-files --others --exclude-standard -z | tar --null -T - -cf - | tar -C "$1" -xf -
