#!/usr/bin/env bash
# Make .venv and install what the project needs: Python packages from the lock file, and (where missing, with apt) Java,
# Maven and PostgreSQL for the embedded servers. Says in one line what is missing when it cannot.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { echo "setup: $*" >&2; exit 1; }
say() { echo "setup: $*"; }

apt_install() {  # packages...
  command -v apt-get >/dev/null || die "missing $*: install them with your package manager"
  local as=()
  if [ "$(id -u)" != 0 ]; then
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || die "missing $*: run 'apt-get install $*' as root"
    as=(sudo -n)
  fi
  say "installing $* (apt)"
  if [ -z "${APT_UPDATED:-}" ]; then "${as[@]}" apt-get update -qq || die "apt-get update failed"; APT_UPDATED=1; fi
  local log; log=$(mktemp)
  "${as[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >"$log" 2>&1 \
    || { tail -n 20 "$log" >&2; die "apt-get install $* failed"; }
  rm -f "$log"
}

python=${PYTHON:-python3}
command -v "$python" >/dev/null || apt_install python3 python3-venv
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed, found $("$python" --version)"
"$python" -c 'import ensurepip, venv' 2>/dev/null || apt_install python3-venv
command -v java >/dev/null || apt_install openjdk-17-jre-headless
command -v mvn >/dev/null || apt_install maven
if ! compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && [ "$(id -u)" = 0 ]; then
  (apt_install postgresql) || say "no system PostgreSQL: the one of the PyPI wheel is used"
fi
if ! command -v kcat >/dev/null && [ "$(id -u)" = 0 ]; then
  (apt_install kcat) || say "no kcat: the test that uses it is skipped"
fi

if ! command -v chromium >/dev/null && [ "$(id -u)" = 0 ]; then
  (apt_install chromium) || say "no chromium: the tests of the pages in a browser are skipped"
fi

[ -x .venv/bin/python ] || { say "making .venv"; "$python" -m venv .venv; }
.venv/bin/python -m pip install --quiet --disable-pip-version-check "uv>=0.5" || die "pip cannot install uv"
export UV_SYSTEM_CERTS=${UV_SYSTEM_CERTS:-1}  # a site's own certificate authority is known to the system, not to uv
say "installing Python packages (about 150, from requirements.lock)"
.venv/bin/uv pip install --quiet --compile-bytecode --python .venv/bin/python --require-hashes -r requirements.lock || die "packages cannot be installed"
.venv/bin/uv pip install --quiet --python .venv/bin/python --no-deps -e ./client -e . || die "the project itself cannot be installed"
# where bytecode is not written by itself every start would compile the project anew
env -u PYTHONDONTWRITEBYTECODE .venv/bin/python -m compileall -q -- */__init__.py */*.py */*/*.py */*/*/*.py >/dev/null || true
say "compiling the code of differences and of the joint fit (two minutes, once)"
.venv/bin/python -P -m service.local.compile_ahead >/dev/null || say "what is not compiled yet is when it is first used"
bash tools/fetch_assets.sh || say "no npm: the pages are served without htmx and uPlot (they are read, and do not renew themselves)"
say "fetching the Kafka broker (about 54 MB, once)"
.venv/bin/python -c 'from service.local.embedded_kafka import install_jars; install_jars()' || die "the Kafka broker cannot be fetched"
bash tools/programs.sh quick || say "no promtool or no schema of compose files: the tests that use them are skipped ('make programs')"
touch .venv/.ready
say "ready"
