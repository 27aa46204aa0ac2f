# Everything needs only Python, make and a package registry; each target makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
ARGS ?=

.PHONY: demo test lint types bench bench-latency soak clean

demo: .venv/installed
	$(PYTEST) --pyargs pytest_isolation.conformance -p no:cacheprovider --isolation-budget $(ARGS)

test: lint types
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist loadfile $(ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report
	@for package in pytest_isolation reference_impl; do \
		echo "coverage of $$package: $$($(BIN)/coverage report --include="$$package/*" --format=total) %"; \
	done

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

types: .venv/installed
	$(BIN)/mypy
	$(BIN)/mypy tests/typing

bench: .venv/installed
	$(PYTEST) benchmarks --ignore=benchmarks/latency -p no:cacheprovider $(ARGS)

# Takes some twenty minutes; ISOLATION_TRIALS=1000 ISOLATION_DECISIONS=20 makes it one or two.
bench-latency: .venv/installed
	$(PYTEST) benchmarks/latency -p no:cacheprovider --benchmark-columns=rounds $(ARGS)

soak: .venv/installed
	$(PYTEST) tests -m soak $(ARGS)

clean:
	rm -rf .venv build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[reference]' --group dev
	touch $@
