#!/usr/bin/env bash
# Make the secrets of compose.yaml where they are missing, and the directories that the containers' user writes in.
set -euo pipefail
cd "$(dirname "$0")/../.."
at=deploy/compose/secrets
mkdir -p "$at" data/{images,templates,uploads,alerts,products}
chmod 0755 "$at"
for name in database_password token reader_password grafana_password; do
  [ -s "$at/$name" ] || (od -An -N32 -tx1 /dev/urandom | tr -d ' \n') > "$at/$name"
done
printf 'postgresql://alertprod:%s@postgres:5432/alertprod' "$(cat "$at/database_password")" > "$at/database_uri"
printf 'APICURIO_DATASOURCE_PASSWORD=%s\n' "$(cat "$at/database_password")" > "$at/registry.env"
chmod 0444 "$at"/*  # compose hands them on with these rights, to the user 10001 and to PostgreSQL's
[ "$(id -u)" != 0 ] || chown -R 10001:10001 data
echo "secrets: $at; data: ./data (its user is 10001)"
