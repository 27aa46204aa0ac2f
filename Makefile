# Everything needs only Python, make and a package registry; each target makes .venv by itself.
PYTHON ?= python3
BIN := .venv/bin
PYTEST := $(BIN)/python -m pytest
ARGS ?=
# Tests start hundreds of processes, and each would compile everything anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test coverage lint types bench bench-latency bench-explore example-redis-2023 incidents soak clean

demo: .venv/installed
	$(PYTEST) --pyargs pytest_isolation.conformance -p no:cacheprovider --isolation-budget $(ARGS)

test: lint types
	$(PYTEST) -n 2 --dist worksteal $(ARGS)

# The same tests, a quarter slower.
coverage: .venv/installed
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n 2 --dist worksteal $(ARGS)
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
	$(PYTEST) benchmarks --ignore=benchmarks/latency --ignore=benchmarks/exploration -p no:cacheprovider $(ARGS)

# Takes some twenty minutes; ISOLATION_TRIALS=1000 ISOLATION_DECISIONS=20 makes it one or two.
bench-latency: .venv/installed
	$(PYTEST) benchmarks/latency benchmarks/test_sampler.py -p no:cacheprovider --benchmark-columns=rounds $(ARGS)

# Beside other tools that explore orders of tasks, on the same corpus; some ten minutes, most of them theirs.
bench-explore: .venv/installed
	$(PYTEST) benchmarks/exploration -p no:cacheprovider --benchmark-columns=rounds $(ARGS)

# The incident of March 2023: the faulty client is caught, the repaired one passes; ARGS=20 does so twenty times.
example-redis-2023: .venv/installed
	$(BIN)/python examples/redis_2023/run.py $(ARGS)

# Published faults, each in the faulty version, which must be found, and the repaired one; ARGS=20 does so twenty times.
incidents: .venv/installed
	$(BIN)/python tests/incidents/run.py $(ARGS)

soak: .venv/installed
	$(PYTEST) tests -m soak $(ARGS)

clean:
	rm -rf .venv build dist .coverage* .mypy_cache .ruff_cache .pytest_cache .hypothesis

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[reference]' --group dev
	touch $@
