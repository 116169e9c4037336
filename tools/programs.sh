#!/usr/bin/env bash
# Fetch programs that are not of Python into .venv/tools/bin: promtool and prometheus (Debian's package, unpacked, not
# installed), helm (built from its Go module); and the schema of compose files. Tests that need them skip where they are not.
# 'programs.sh quick', as set-up runs it, leaves helm out.
set -euo pipefail
cd "$(dirname "$0")/.."
bin=$PWD/.venv/tools/bin
mkdir -p "$bin"
say() { echo "programs: $*"; }

if ! { command -v promtool && command -v prometheus; } >/dev/null && [ ! -x "$bin/promtool" ]; then
  if command -v apt-get >/dev/null; then
    there=$(mktemp -d)
    say "unpacking Debian's prometheus"
    (cd "$there" && { apt-get download -qq prometheus || { apt-get update -qq && apt-get download -qq prometheus; }; } &&
      dpkg-deb -x prometheus_*.deb .)
    cp "$there"/usr/bin/{promtool,prometheus} "$bin"
    rm -rf "$there"
  else
    say "no apt-get: put promtool and prometheus on the path"
  fi
fi
if [ "${1:-}" != quick ] && ! command -v helm >/dev/null && [ ! -x "$bin/helm" ]; then  # minutes, the first time
  if command -v go >/dev/null; then
    say "building helm"
    GOBIN=$bin go install helm.sh/helm/v3/cmd/helm@latest
  else
    say "no go: put helm on the path"
  fi
fi
if [ ! -f "$bin/../share/compose-spec.json" ] && command -v go >/dev/null; then
  say "fetching the schema of compose files"
  from=$(go mod download -json github.com/compose-spec/compose-go/v2@v2.9.0 | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  mkdir -p "$bin/../share" && cp "$from/schema/compose-spec.json" "$bin/../share" && chmod u+w "$bin/../share/compose-spec.json"
fi
say "ready: $(ls "$bin" | tr '\n' ' ')"
