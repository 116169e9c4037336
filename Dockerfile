# what the pages load in a browser, by their lock file
FROM node:20-bookworm-slim AS pages
WORKDIR /src
COPY tools/fetch_assets.sh tools/
COPY service/pages/package.json service/pages/package-lock.json service/pages/
RUN bash tools/fetch_assets.sh

FROM python:3.11-slim-bookworm AS build
WORKDIR /src
COPY pyproject.toml requirements.lock README.md LICENSE ./
RUN python -m venv /venv && /venv/bin/pip install --no-cache-dir --require-hashes -r requirements.lock
COPY . .
COPY --from=pages /src/service/pages/vendor service/pages/vendor
RUN /venv/bin/pip install --no-cache-dir --no-deps ./client .

FROM python:3.11-slim-bookworm
RUN useradd --uid 10001 --no-create-home alertprod
COPY --from=build /venv /venv
# The API is reached from outside the container: it asks for tokens. One of all scopes may be mounted as a file and named by
# ALERTPROD_ADMIN_TOKEN_FILE; 'alertprod tokens create' makes others.
ENV PATH=/venv/bin:$PATH PYTHONUNBUFFERED=1 NUMBA_CACHE_DIR=/tmp/numba ALERTPROD_HOST=0.0.0.0 ALERTPROD_ACCESS=tokens
USER 10001
EXPOSE 8080
ENTRYPOINT ["alertprod"]
CMD ["serve"]
