#!/usr/bin/env bash
# Spark needs Java 17 or newer. Finds it, installs it as root with apt-get, or says what to do.
set -euo pipefail

java_major() { "${JAVA_HOME:+$JAVA_HOME/bin/}java" -version 2>&1 | sed -nE 's/.*version "([0-9]+).*/\1/p' | head -n 1; }

major=$(java_major || true)
if [ "${major:-0}" -ge 17 ] 2>/dev/null; then exit 0; fi

if command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  echo "Java ${major:-} is missing or older than 17: installing openjdk-17-jre-headless"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq openjdk-17-jre-headless >/dev/null
  exit 0
fi
echo "Spark needs Java 17 or newer; found '${major:-none}'." >&2
echo "Install it (Debian/Ubuntu: sudo apt-get install openjdk-17-jre-headless; macOS: brew install openjdk@17), or point JAVA_HOME at one." >&2
exit 1
