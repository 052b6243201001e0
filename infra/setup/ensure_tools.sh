#!/usr/bin/env bash
# Tools that only tests need: promtool (alerting rules) and Chromium with a font (console), installed as root with apt-get,
# and Apache Kafka, from Maven Central. Without them, those tests are skipped with a message.
set -euo pipefail

missing=()
command -v promtool >/dev/null || missing+=(prometheus)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing+=(chromium fonts-dejavu-core)
if [ ${#missing[@]} -eq 0 ]; then
  :
elif command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  echo "installing for the tests: ${missing[*]}"
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "not installed: ${missing[*]} (Debian: apt-get install ${missing[*]}); the tests that need them are skipped" >&2
fi
[ -d ../shared/kafka/jars ] ||
  .venv/bin/python -c 'from infra.local.kafka_jars import kafka_jars; from recsys.settings import Settings; kafka_jars(Settings().kafka_jars)' ||
  echo "no jars of Apache Kafka: the tests that need them are skipped" >&2
