#!/usr/bin/env bash
# Runs the containers of compose.yaml and of the Kubernetes overlays on this machine, without a container engine, as root:
#   infra/deploy/check.sh [compose|local|production…]
# Needs kubectl for the overlays, and what infra/setup/ensure_tools.sh installs. Installs debootstrap, and makes the image's root
# file system below /var/cache/recsys-deploy-check, from Debian's mirror.
set -euo pipefail
cd "$(dirname "$0")/../.."
command -v debootstrap >/dev/null || { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq debootstrap >/dev/null; }
exec "${PYTHON:-.venv/bin/python}" -m infra.deploy_check "$@"
