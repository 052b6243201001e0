#!/usr/bin/env bash
# Writes CycloneDX bills of materials of what each image installs: sbom.sh FOLDER [IMAGE…]
set -euo pipefail
folder=$(realpath -m "${1:?a folder for the files}")
cd "$(dirname "$0")/../.."
mkdir -p "$folder"
[ $# -gt 1 ] && images=("${@:2}") || images=(serving training)
for image in "${images[@]}"; do
  "${PYTHON:-.venv/bin/python}" -m cyclonedx_py requirements --pyproject pyproject.toml --output-reproducible --of JSON \
    -o "$folder/$image.json" "infra/setup/locks/$image.txt"
  echo "$folder/$image.json"
done
