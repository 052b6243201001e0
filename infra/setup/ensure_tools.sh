#!/usr/bin/env bash
# Tools that only tests need: promtool (alerting rules), Chromium with a font (console), PostgreSQL and MariaDB (catalogue
# database), a Redis with TLS and nginx, installed as root with apt-get, and Apache Kafka, from Maven Central. Without them,
# those tests are skipped with a message.
set -euo pipefail

missing=()
command -v promtool >/dev/null || missing+=(prometheus)
command -v chromium >/dev/null || command -v chromium-browser >/dev/null || missing+=(chromium fonts-dejavu-core)
compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || command -v postgres >/dev/null || missing+=(postgresql)
command -v mariadbd >/dev/null && command -v my_print_defaults >/dev/null ||
  missing+=(mariadb-server-core mariadb-client-core)
command -v redis-server >/dev/null || command -v valkey-server >/dev/null || missing+=(redis-server)
command -v nginx >/dev/null || [ -x /usr/sbin/nginx ] || missing+=(nginx-light)
if [ ${#missing[@]} -eq 0 ]; then
  :
elif command -v apt-get >/dev/null && [ "$(id -u)" -eq 0 ]; then
  echo "installing for the tests: ${missing[*]}"
  # the tests start servers of their own; Debian's PostgreSQL would create and start one
  [ -e /etc/postgresql-common/createcluster.conf ] || {
    mkdir -p /etc/postgresql-common
    echo 'create_main_cluster = false' >/etc/postgresql-common/createcluster.conf
  }
  apt-get update -qq
  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
else
  echo "not installed: ${missing[*]} (Debian: apt-get install ${missing[*]}); the tests that need them are skipped" >&2
fi
[ -d ../shared/kafka/jars ] ||
  .venv/bin/python -c 'from infra.local.kafka_jars import kafka_jars; from recsys.settings import Settings; kafka_jars(Settings().kafka_jars)' ||
  echo "no jars of Apache Kafka: the tests that need them are skipped" >&2
