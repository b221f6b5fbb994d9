# Everything lives in .venv inside this checkout; the first target to run makes it.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.PHONY: quickstart test test-all test-cpp docs release audit lint types imports check bench-smoke clean

quickstart: $(STAMP)  ## the whole loop on synthetic streets; leaves quickstart/report.html
	$(BIN)/clouds-deploy quickstart --out quickstart

test: $(STAMP) check  ## linters, types and all tests but the slow ones; two processes of one thread, for two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile

test-all: $(STAMP) check  ## the slow tests too
	$(BIN)/python -m pytest -q -m "not gpu"

test-cpp: $(STAMP)  ## the C++ runtime: sanitizers, a minute of threads, a fuzzer; skips what cannot be built here
	$(BIN)/python -m pytest -q -m "not gpu" tests/cpp

docs: $(STAMP)  ## rewrite the generated pages of docs/reference, then build the site, strictly, into site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

release:  ## wheel, sdist, SBOM and checksums in dist/: built, checked, and installed in a clean environment
	.ci/release $(PYTHON)

audit: $(STAMP)  ## known vulnerabilities of the packages in .venv, by pip-audit from an environment of its own; needs the network
	$(PYTHON) -m venv .venv/audit
	.venv/audit/bin/python -m pip install -q --disable-pip-version-check "pip-audit>=2.9"
	.venv/audit/bin/pip-audit --path "$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" --skip-editable

check: lint types imports

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

imports: $(STAMP)
	$(BIN)/lint-imports

bench-smoke: $(STAMP)  ## a short benchmark of a freshly initialised tiny model
	$(BIN)/python -m pytest -q tests/bench

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps cityscapesScripts==2.3.0
	touch $(STAMP)

clean:
	rm -rf $(VENV) quickstart dist build site
