#!/usr/bin/env bash
# Fetch what the pages load in a browser, by the lock file, into the folder that the wheel packs: files and their licences.
set -euo pipefail
cd "$(dirname "$0")/../service/pages"
command -v npm >/dev/null || exit 1
npm ci --ignore-scripts --no-audit --no-fund --silent
mkdir -p vendor
cp node_modules/htmx.org/dist/htmx.min.js node_modules/uplot/dist/uPlot.iife.min.js node_modules/uplot/dist/uPlot.min.css vendor/
cp node_modules/@fontsource-variable/inter/files/inter-latin-wght-normal.woff2 vendor/inter.woff2
cp node_modules/@fontsource-variable/jetbrains-mono/files/jetbrains-mono-latin-wght-normal.woff2 vendor/jetbrains-mono.woff2
cp node_modules/@fontsource-variable/inter/LICENSE vendor/LICENSE.inter
cp node_modules/@fontsource-variable/jetbrains-mono/LICENSE vendor/LICENSE.jetbrains-mono
cp node_modules/htmx.org/LICENSE vendor/LICENSE.htmx
cp node_modules/uplot/LICENSE vendor/LICENSE.uPlot
