#!/usr/bin/env bash
# Tools that only tests need: promtool (alerting rules) and Chromium with a font (console). Installed as root with apt-get;
# without them, those tests are skipped with a message.
set -euo pipefail

missing=()
command -v promtool >/dev/null || missing+=(prometheus)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing+=(chromium fonts-dejavu-core)
[ ${#missing[@]} -eq 0 ] && exit 0
if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  echo "installing for the tests: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "not installed: ${missing[*]} (Debian: apt-get install ${missing[*]}); the tests that need them are skipped" >&2
fi
