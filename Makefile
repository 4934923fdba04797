# Needs make and Python 3.11 or 3.12, nothing else. PYTHON=… chooses the interpreter.

MAKEFLAGS += --no-print-directory
.SILENT:
.DEFAULT_GOAL := help
.PHONY: help venv venv-dev run test test-unit coverage check bench lock clean

VENV := .venv/bin/python

# DATA, PORT, STATE and NIGHTLY reach the program by themselves: make hands its command line and its environment on.
# `exec`, so that a signal to make's child is a signal to Python.

help: ## list the targets
	sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' $(firstword $(MAKEFILE_LIST)) | expand -t 16

run: venv ## start everything; Ctrl-C stops it (DATA=file.csv.gz PORT=8000 STATE=.state NIGHTLY=off)
	exec $(VENV) -m serve_app.run

test: venv-dev ## all tests, real MySQL, Redis and Ray included (ARGS="-k lease" for some)
	exec $(VENV) -m tests all $(ARGS)

test-unit: venv-dev ## those that start no server, and the doctests: under a minute
	exec $(VENV) -m tests unit $(ARGS)

coverage: venv-dev ## branches that the unit and contract tests take
	exec $(VENV) -m tests coverage $(ARGS)

check: venv-dev ## formatting, lint, types, direction of imports
	$(VENV) -m ruff format --check
	$(VENV) -m ruff check
	.venv/bin/lint-imports --no-logo
	$(VENV) -m mypy --strict

bench: venv-dev ## the benchmarks, with peers beside
	exec $(VENV) -m bench $(ARGS)

venv: ## make .venv as requirements.lock says
	$(call environment,)

venv-dev:
	$(call environment,dev)

lock: ## resolve pyproject.toml anew into requirements.lock (UPGRADE=1: to the newest versions)
	test -x .venv/bin/uv || $(MAKE) venv-dev
	.venv/bin/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --all-extras \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate $(if $(UPGRADE),--upgrade) \
		pyproject.toml -o requirements.lock

clean: ## remove .venv and caches; .state stays
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .coverage build dist *.egg-info
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first interpreter that really runs: a pyenv shim may be on PATH and yet fail. That of .venv starts fastest.
define environment
for python in $(or $(PYTHON),$(VENV) python3.11 python3.12 python3 python); do \
	if "$$python" -I -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1; then \
		exec "$$python" -I tools/environment.py $(1) $(if $(PYTHON),--exact); \
	fi; \
done; \
echo "Python 3.11 or 3.12 is needed and was not found$(if $(PYTHON), at $(PYTHON)); PYTHON=/path/to/python3.11 make … names one" >&2; \
exit 1
endef
