#!/usr/bin/env bash
# Writes the lock files: the exact version and the hashes of everything that is installed, for every platform and Python
# of pyproject.toml. Versions stay as they are; `lock.sh --upgrade` takes the newest, `--upgrade-package NAME` one of them.
set -euo pipefail
cd "$(dirname "$0")/../.."
UV=${UV:-.venv/bin/uv}
LOCKS=infra/setup/locks
COMMON=(--quiet --universal --python-version 3.11 --generate-hashes --no-annotate --custom-compile-command "make lock")
compile() {  # NAME [OPTION...]
  "$UV" pip compile "${COMMON[@]}" -o "$LOCKS/$1.txt" pyproject.toml "$LOCKS/build.in" "${@:2}"
}
# one resolution of everything; the smaller ones take their versions from it
compile dev --extra train --extra spark --extra milvus --extra otel --extra database --extra s3 --extra dev "$@"
sed -nE 's/^([A-Za-z0-9._-]+==[^ ]+)( ;.*)? \\$/\1\2/p' "$LOCKS/dev.txt" > "$LOCKS/.versions"
trap 'rm -f "$LOCKS/.versions"' EXIT
compile serving --extra database --extra s3 -c "$LOCKS/.versions"
compile training --extra train --extra spark --extra s3 -c "$LOCKS/.versions"
# the newest onnxruntime for GPUs that is not newer than the one for CPUs (it comes out later), and its CUDA libraries
sed -nE 's/^onnxruntime==([^ ]+).*/onnxruntime-gpu[cuda,cudnn]<=\1/p' "$LOCKS/dev.txt" |
  "$UV" pip compile "${COMMON[@]}" -c "$LOCKS/.versions" -o "$LOCKS/cuda.txt" -
