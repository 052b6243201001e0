#!/usr/bin/env bash
# Installs a lock file into a virtual environment: PYTHON LOCK. uv takes a third of pip's processor time; where it cannot
# reach the index, as it does not read pip's configuration (proxies, mirrors), pip installs. Either compiles what it
# installs: containers and CI often forbid Python to write bytecode, and each process would compile torch again.
set -euo pipefail
python=$1 lock=$2
pip=("$python" -m pip install --quiet --disable-pip-version-check --require-hashes)
# uv alone first, in the locked version
awk '/^uv==/ { found = 1 } found { print } found && !/\\$/ { exit }' "$lock" | "${pip[@]}" -r /dev/stdin
"$python" -m uv pip install --quiet --compile-bytecode --python "$python" --require-hashes -r "$lock" || "${pip[@]}" -r "$lock"
