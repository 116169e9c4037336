# Everything a newcomer needs: `make demo` and `make test` do their own set-up.
SHELL := /bin/bash
PY := .venv/bin/python
export PYTHONUNBUFFERED := 1

.PHONY: setup demo test check bench clean

setup: .venv/.ready

.venv/.ready: pyproject.toml requirements.lock tools/setup.sh
	@bash tools/setup.sh

demo: setup
	@$(PY) -m service.cli demo --out demo-output

check: setup
	@.venv/bin/ruff format --check . && .venv/bin/ruff check . && .venv/bin/mypy && .venv/bin/lint-imports

test: setup
	@$(MAKE) --no-print-directory check
	@$(PY) -m pytest

bench: setup
	@$(PY) -m benchmarks.steps
	@$(PY) -m benchmarks.diffim

clean:
	rm -rf .venv demo-output .pytest_cache .mypy_cache .ruff_cache
