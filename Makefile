# Two commands do all the set-up: `make run` and `make test`.
SHELL := /bin/sh
VENV := .venv
PY := $(VENV)/bin/python
# A test file is never split, but for its documents (tests/conftest.py): its tests may share a stack.
PYTEST := $(PY) -m pytest -q --dist loadfile
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
STAMP := $(VENV)/.synced
SEEDS ?= 1000
FIRST ?= 0
KILLS ?= 200
SECONDS ?= 300
QUICK ?=
SET ?=
ARGS ?=
GOAL ?= refund order 1001 and tell the customer

# Trust what the machine trusts; older versions of uv know the first name only.
export UV_NATIVE_TLS := 1
export UV_SYSTEM_CERTS := 1
# Without its bytecode every process of a stack would compile all that it imports, at every start.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: run test test-training check types units simulate simulate-mutants fuzz eval hijack chaos chaos-short bench bench-peers profile learning routes batches public fmt protos \
	setup ci clean help

help:  ## show the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | sort

.uv/bin/uv:
	@echo "uv is missing: bringing it into .uv/ (private to this checkout)"
	@python3 -m venv .uv && .uv/bin/pip install --quiet --disable-pip-version-check uv

$(STAMP): pyproject.toml uv.lock $(filter .uv/%,$(UV))
	@$(UV) sync --frozen --quiet
	@touch $@

setup: $(STAMP)  ## install everything into .venv

# On a terminal it asks before the e-mail goes out; elsewhere nobody could answer, and it is approved.
run: $(STAMP)  ## run the main job on the embedded default
	@$(VENV)/bin/handrail run "$(GOAL)" --project examples/backoffice --as ines $$([ -t 0 ] || echo --approve)

# More than there are cores, as they wait for processes that start. The longest files first.
test: $(STAMP)  ## every test that CI runs (under ten minutes on two cores)
	$(PYTEST) -n 4 --no-loadscope-reorder tests/acceptance tests/chaos tests/cluster tests examples

test-training: $(STAMP)  ## the tests that need torch, which is an extra (two minutes)
	$(PYTEST) tests/unit/test_lam_network.py tests/unit/test_lam_training.py tests/unit/test_lam_together.py tests/unit/test_bench_batches.py \
		tests/unit/test_bench_learning.py tests/unit/test_bench_public.py

check: $(STAMP)  ## format, lint, types, import contracts, proto drift, unit tests (under a minute)
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/lint-imports
	$(PY) protos/generate.py --check
	@$(MAKE) --no-print-directory -j 2 types units

types: $(STAMP)
	$(VENV)/bin/mypy

units: $(STAMP)
	$(PYTEST) -n 2 tests/unit tests/scenarios

simulate: $(STAMP)  ## live through SEEDS seeds of faults on the in-memory log, and check every promise
	$(PY) -m tests.simulation --seeds $(SEEDS) --first $(FIRST)

simulate-mutants: $(STAMP)  ## plant bugs, and see that the simulator finds each of them
	$(PY) -m tests.simulation --mutants

fuzz: $(STAMP)  ## make real inputs wrong for SECONDS, all campaigns together (SEED=.. as before; ARGS="--only NAME --number N")
	$(PY) -m tests.fuzz --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) $(ARGS)

eval: $(STAMP)  ## measure the sample's action model, on goals written by hand and on generated ones (a minute)
	$(VENV)/bin/handrail lam eval --project examples/backoffice $(ARGS)

hijack: $(STAMP)  ## let an attacker who has every mind try AgentDojo's goals (up to half an hour; QUICK=1: two minutes)
	$(PY) -m tests.hijack $(if $(QUICK),--quick) $(ARGS)

chaos: $(STAMP)  ## kill, stop and cut off KILLS times on both hosts, and judge every run (up to half an hour)
	$(PY) -m tests.chaos --kills $(KILLS) --points --stops --cases --host both $(if $(SEED),--seed $(SEED))

chaos-short: $(STAMP)  ## every named point once, and the cases, on the inline host (minutes)
	$(PY) -m tests.chaos --kills 100 --points --cases --together --seed $(or $(SEED),1)

bench: $(STAMP)  ## measure: speed beside the limit, parked runs, faults, gates, start (twelve minutes; QUICK=1: two)
	$(PY) -m bench $(if $(QUICK),--quick) $(ARGS)

bench-peers: $(STAMP)  ## the same beside LangGraph, DBOS, Restate, AutoGen, and kills (20 minutes; QUICK=1: three)
	$(PY) -m bench --peers $(if $(QUICK),--quick) $(ARGS)

profile: $(STAMP)  ## say where the time of a plan of reads and of one of effects goes (a minute)
	$(PY) -m bench profile --case read $(if $(QUICK),--quick) $(ARGS)
	$(PY) -m bench profile --case effect $(if $(QUICK),--quick) $(ARGS)

routes: $(STAMP)  ## the same goals by a plan, by the action model, and by a bigger model that is scripted (two minutes)
	$(PY) -m bench routes $(if $(QUICK),--quick) $(ARGS)

batches: $(STAMP)  ## goals a second of the action model, alone and in batches, in NumPy and with torch (a minute)
	$(PY) -m bench batches $(if $(QUICK),--quick) $(ARGS)

learning: $(STAMP)  ## teach the action model six tools that it has never seen, and measure it (an hour; needs torch)
	$(PY) -m bench learning $(if $(QUICK),--quick) $(ARGS)

public: $(STAMP)  ## train the action model's network on the schema-guided dialogues at SET=DIR, and measure it (forty minutes; needs torch)
	$(PY) -m bench public --path "$(SET)" $(if $(QUICK),--quick) $(ARGS)

fmt: $(STAMP)  ## format and fix what can be fixed
	$(VENV)/bin/ruff format .
	$(VENV)/bin/ruff check --fix .

protos: $(STAMP)  ## generate the protobuf and gRPC code
	$(PY) protos/generate.py

ci: check test

clean:  ## remove what was built here
	rm -rf $(VENV) .uv .handrail .mypy_cache .ruff_cache .pytest_cache .import_linter_cache bench/.venvs
