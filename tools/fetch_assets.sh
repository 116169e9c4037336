#!/usr/bin/env bash
# Fetch what the pages load in a browser, by the lock file, into the folder that the wheel packs: files and their licences.
set -euo pipefail
cd "$(dirname "$0")/../service/pages"
command -v npm >/dev/null || exit 1
npm ci --ignore-scripts --no-audit --no-fund --silent
mkdir -p vendor
cp node_modules/htmx.org/dist/htmx.min.js node_modules/uplot/dist/uPlot.iife.min.js node_modules/uplot/dist/uPlot.min.css vendor/
cp node_modules/htmx.org/LICENSE vendor/LICENSE.htmx
cp node_modules/uplot/LICENSE vendor/LICENSE.uPlot
