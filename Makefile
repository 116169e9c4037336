# Everything a newcomer needs: `make demo` and `make test` do their own set-up.
SHELL := /bin/bash
PY := .venv/bin/python
export PYTHONUNBUFFERED := 1

.PHONY: setup demo test check coverage bench registry-test delivery-test overlap-test history-test clean

setup: .venv/.ready

.venv/.ready: pyproject.toml requirements.lock tools/setup.sh
	@bash tools/setup.sh

demo: setup
	@$(PY) -P -m service.commands.main demo --out demo-output

check: setup
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/lint-imports \
		&& $(PY) -P tools/check_lock.py

# three workers on two cores: tests that wait run beside tests that compute
test: setup
	@$(MAKE) --no-print-directory check
	@$(PY) -m pytest -n 3 --dist loadfile

# The tests with coverage by branch, children too; fails below the floor in pyproject.toml.
coverage: setup
	@$(PY) -m pytest -n 2 --cov --cov-report=term:skip-covered --cov-report=xml

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

# 300 histories of visits, replacements, withdrawals and merges; 20 kills in the middle of a replacement.
history-test: setup
	@ALERTPROD_HISTORIES=300 ALERTPROD_REPLACE_KILLS=20 $(PY) -m pytest tests/integration/test_take_back.py -s -o timeout=3000

bench: setup
	@$(PY) -m benchmarks.steps
	@$(PY) -m benchmarks.diffim

clean:
	rm -rf .venv demo-output .coverage* coverage.xml .pytest_cache .mypy_cache .ruff_cache
