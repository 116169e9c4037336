# Two images: 'roles' (relay, reconcile, ingest, upkeep of the database) and 'worker' (pixels, too: worker, and serve, whose pages
# show images). The API of 'roles' answers all but pictures, cutouts and periods.
#   docker build --target roles -t alertprod:0.2.0 .
#   docker build --target worker -t alertprod-worker:0.2.0 .

# what the pages load in a browser, by their lock file
FROM node:20-bookworm-slim AS pages
WORKDIR /src
COPY tools/fetch_assets.sh tools/
COPY service/pages/package.json service/pages/package-lock.json service/pages/
RUN bash tools/fetch_assets.sh

# has 'strip', too; nothing of it is in the images
FROM python:3.11-bookworm AS source
WORKDIR /src
COPY . .
COPY --from=pages /src/service/pages/vendor service/pages/vendor

FROM source AS build-roles
RUN sh deploy/install.sh roles /venv

FROM source AS build-worker
RUN sh deploy/install.sh worker /venv

FROM python:3.11-slim-bookworm AS runtime
RUN useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin alertprod
# The API is reached from outside the container: it asks for tokens. One of all scopes may be mounted as a file and named by
# ALERTPROD_ADMIN_TOKEN_FILE; 'alertprod tokens create' makes others. What libraries keep goes to /tmp: the rest may be read-only.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp NUMBA_CACHE_DIR=/tmp/numba \
    MPLCONFIGDIR=/tmp/matplotlib XDG_CACHE_HOME=/tmp/cache XDG_CONFIG_HOME=/tmp/config \
    ALERTPROD_HOST=0.0.0.0 ALERTPROD_ACCESS=tokens
USER 10001:10001
WORKDIR /tmp
ENTRYPOINT ["alertprod"]

FROM runtime AS worker
COPY --from=build-worker /venv /venv
EXPOSE 8080
CMD ["worker"]

# The last one is what a build without --target makes.
FROM runtime AS roles
COPY --from=build-roles /venv /venv
EXPOSE 8080
HEALTHCHECK --interval=15s --timeout=6s --start-period=60s \
    CMD ["python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ.get('ALERTPROD_METRICS_PORT') or 8080}/healthz\", timeout=5)"]
CMD ["serve"]
