#!/usr/bin/env bash
# promtool, which only the tests of the alerting rules need. Installed where apt-get may; without it those tests are skipped
# and say so.
set -euo pipefail

command -v promtool >/dev/null && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  echo "installing for the tests: prometheus (promtool)"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends prometheus >/dev/null
else
  echo "promtool is not installed (Debian: apt-get install prometheus): the tests of alerting rules are skipped" >&2
fi
