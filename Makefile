# Everything a newcomer needs: `make demo` and `make test` do their own set-up.
SHELL := /bin/bash
PY := .venv/bin/python
export PYTHONUNBUFFERED := 1
# modules and tests are compiled once, not anew in every process that is started
unexport PYTHONDONTWRITEBYTECODE
# of several processes beside each other: threads that wait for work turn round and take the time of the others
ONE_THREAD := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 NUMBA_NUM_THREADS=1 OPENCV_FOR_THREADS_NUM=1

.PHONY: setup demo test check coverage bench registry-test delivery-test overlap-test archive-test faults burst api-fuzz soak conditions-test joint-conditions-test lint types history-test docs programs restore-drill middleware-test pages-bench locks image-check audit sbom licences clean

setup: .venv/.ready

.venv/.ready: pyproject.toml client/pyproject.toml requirements.lock tools/setup.sh tools/fetch_assets.sh service/pages/package-lock.json
	@bash tools/setup.sh

demo: setup
	@$(PY) -P -m service.commands.main demo --out demo-output

check: setup
	@$(MAKE) --no-print-directory -j2 --output-sync=target types lint

types: setup
	@.venv/bin/mypy

lint: setup
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/lint-imports && $(PY) -P tools/check_lock.py

# Three workers on two cores: tests that wait run beside tests that compute. A file is one worker's; the longest come first.
test: setup
	@$(MAKE) --no-print-directory check
	@$(ONE_THREAD) $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# promtool, prometheus and helm, in .venv/tools/bin.
programs: setup
	@bash tools/programs.sh

# The locks of both images, with the versions of requirements.lock.
locks: setup
	@.venv/bin/uv pip compile deploy/roles.in deploy/build.in -c requirements.lock --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-emit-package alertprod-client -q -o deploy/roles.lock
	@.venv/bin/uv pip compile pyproject.toml deploy/build.in -c requirements.lock --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --no-emit-package alertprod-client -q -o deploy/worker.lock

# What the Dockerfile does, in clean prefixes: sizes, and every role as another user from a tree that it cannot write.
image-check: setup
	@$(ONE_THREAD) $(PY) -m tools.image_check

# A base backup under load, the end of the server, restore of base and WAL: ledger, outbox and topic must agree.
restore-drill: setup
	@ALERTPROD_DRILL_VISITS=400 $(PY) -m pytest tests/integration/test_restore.py -s -o timeout=900

# Known weaknesses of what the images hold (asks the advisory database of PyPI), their bill of materials, their licences.
audit: setup
	@.venv/bin/pip-audit --strict --require-hashes --disable-pip -r deploy/worker.lock -r deploy/roles.lock

sbom: setup
	@$(PY) -m tools.supply sbom

licences: setup
	@$(PY) -m tools.supply licences

# The tests with coverage by branch, children too; fails below the floor in pyproject.toml.
coverage: setup
	@$(PY) -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-report=xml

# The documentation into docs/_build/html: reference from the code, warnings are errors, spelling, links. ALERTPROD_DOCS_DIR serves it.
docs: setup
	@.venv/bin/codespell docs README.md CONTRIBUTING.md client/README.md
	@$(PY) -m sphinx -q -E -W --keep-going -b html docs docs/_build/html
	@$(PY) -m tools.check_links docs/_build/html
	@echo "docs/_build/html/index.html"

# Against Apicurio 3.0.9 (109 MB from Maven Central, once).
registry-test: setup
	@ALERTPROD_APICURIO=1 $(PY) -m pytest tests/registry

# 100 kills of the relay, 10 of the broker, 60 s without a broker, 20 000 alerts: about 10 minutes.
delivery-test: setup
	@ALERTPROD_RELAY_KILLS=100 ALERTPROD_BROKER_KILLS=10 ALERTPROD_ALERTS=20000 ALERTPROD_BROKER_DOWN_S=60 \
		$(PY) -m pytest tests/integration/test_delivery_faults.py -s -o timeout=3000

# 500 rounds of eight workers on overlapping detectors.
overlap-test: setup
	@ALERTPROD_OVERLAP_ROUNDS=500 $(PY) -m pytest tests/integration/test_overlap.py -o timeout=3000

# 100 new histories of late frames, archives, drops and restores, and 20 archives that are killed: about 5 minutes. A failure
# tells its seed: ALERTPROD_HISTORY_SEED plays the same histories again.
archive-test: setup
	@ALERTPROD_ARCHIVE_HISTORIES=100 ALERTPROD_ARCHIVE_KILLS=20 $(PY) -m pytest tests/integration/test_archive.py -o timeout=3000

# 200 kills of workers and one at each named point, 1000 broken files (headers, then pixels), a database that is away for 30 s
# while 500 messages flow, full disks, the version before beside this one: about 25 minutes, as root (small disks are mounted).
# Its rows go to docs/faults.md; a part ('make faults FAULTS=tests/faults/test_ingest.py') brings its own up to date.
FAULTS ?= tests/faults
faults: setup
	@$(ONE_THREAD) ALERTPROD_LONG_FAULTS=1 ALERTPROD_KILLS=200 ALERTPROD_FUZZ=1000 ALERTPROD_MESSAGES=500 \
		ALERTPROD_DATABASE_DOWN_S=30 ALERTPROD_FAULT_REPORT=docs/faults.md $(PY) -m pytest $(FAULTS) -o timeout=3000

# 10 000 visits as fast as they are taken; 99 of 100 states within 0.1 s meanwhile (on a machine that has nothing else to do).
burst: setup
	@ALERTPROD_BURST=10000 ALERTPROD_BURST_READ_S=0.1 $(PY) -m pytest tests/faults/test_burst.py -s -o timeout=3000

# Requests made from the OpenAPI document (schemathesis), alone and in chains, by somebody with a token.
api-fuzz: setup
	@ALERTPROD_API_FUZZ=$(or $(EXAMPLES),50) $(PY) -m pytest tests/faults/test_api_fuzz.py -s

# The whole service under full load for an hour: memory grows by less than 1 MB a minute, connections stay.
soak: setup
	@$(ONE_THREAD) ALERTPROD_SOAK_S=$(or $(SOAK_S),3600) $(PY) -m pytest tests/faults/test_soak.py -s

# 300 pairs under conditions drawn at random: none may go wrong without a word.
conditions-test: setup
	@ALERTPROD_CONDITIONS=300 $(PY) -m pytest tests/unit/diffim/test_drawn_conditions.py -s -o timeout=7200

# 150 joint fits of small surveys drawn at random, with rough headers and with other troubles: each WCS within five formal errors,
# or it is said: about four minutes.
joint-conditions-test: setup
	@ALERTPROD_JOINT_CONDITIONS=150 ALERTPROD_JOINT_TROUBLES=150 $(ONE_THREAD) $(PY) -m pytest tests/unit/calibration/test_joint_conditions.py \
		tests/unit/calibration/test_joint_troubles.py -s -o timeout=3000

# 300 new histories of visits, replacements, withdrawals and merges (seeds as above); 20 kills in the middle of a replacement;
# 3000 associations beside brute force.
history-test: setup
	@ALERTPROD_HISTORIES=300 ALERTPROD_REPLACE_KILLS=20 ALERTPROD_ASSOCIATIONS=3000 $(PY) -m pytest \
		tests/integration/test_take_back.py tests/unit/association/test_association.py -s -o timeout=3000

# Rubin's middleware, whole: nights by command line give the service's rows and alerts (simulated; real, where the frames are),
# a survey of ten visits is made anew, more than 40 quanta run as a batch on Parsl with two workers, HTCondor's files are prepared.
middleware-test: setup
	@UV_SYSTEM_CERTS=1 .venv/bin/uv pip install --quiet --python .venv/bin/python -e ./client -e '.[batch]'
	@$(ONE_THREAD) ALERTPROD_MIDDLEWARE=1 $(PY) -m pytest tests/integration/test_middleware_commands.py \
		tests/integration/test_middleware_drp.py tests/integration/test_batch.py -s -o timeout=3300

bench: setup
	@$(PY) -m benchmarks.steps
	@$(PY) -m benchmarks.diffim

# Times of the dashboard in a real browser on a database with 1e6 sources, as a table.
pages-bench: setup
	@$(PY) -m benchmarks.pages

clean:
	rm -rf docs/_build docs/reference/generated .venv demo-output .coverage* coverage.xml .pytest_cache .mypy_cache .ruff_cache
