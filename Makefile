# Everything runs from environments in this folder, which scripts/setup.py makes and keeps current.
# PYTHON: any Python >= 3.11 with venv.  ARGS: more arguments for the program that the target ends in.
PYTHON ?= python3
ARGS ?=
SETUP = @$(PYTHON) scripts/setup.py

.PHONY: help run demo test test-unit test-system test-kube bench docs lint lock clean

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 14

run: ## set up what is missing, then start Maestro
	$(SETUP) run
	@exec .venv/bin/python -m maestro_hub_services.run $(ARGS)

demo: ## the same with throw-away data, two sample users and a sample workspace
	$(SETUP) run
	@exec .venv/bin/python -m maestro_hub_services.run --demo $(ARGS)

test: ## unit and system tests, and the cluster tests where KUBECONFIG is set
	$(SETUP) test
	@exec .venv/bin/python -m pytest $(ARGS)

test-unit: ## the rules and the handlers; no Hub
	$(SETUP) test
	@exec .venv/bin/python -m pytest tests/test_architecture.py tests/unit $(ARGS)

test-system: ## a real Hub, proxy, services, MLflow, kernels, browser
	$(SETUP) test
	@exec .venv/bin/python -m pytest tests/system $(ARGS)

test-kube: ## the same system on the cluster of KUBECONFIG
	$(SETUP) test
	@exec .venv/bin/python -m pytest tests/cluster $(ARGS)

bench: ## ratios in one run, written to bench/results
	$(SETUP) test
	@exec .venv/bin/python -m bench $(ARGS)

docs: ## the documentation as HTML in docs/_build/html
	$(SETUP) test
	@exec .venv/bin/python -m sphinx -W --keep-going -q -b html docs docs/_build/html $(ARGS)

lint: ## ruff and mypy
	$(SETUP) test
	@.venv/bin/ruff check .
	@.venv/bin/ruff format --check .
	@.venv/bin/mypy

lock: ## write the lock files anew after a change of setup.cfg (UPGRADE=1: newest versions)
	$(SETUP) lock

clean: ## remove all that set-up made; data in ./state stays
	rm -rf .setup .venv .venv-singleuser node_modules templates/pages/static/vendor build dist *.egg-info docs/_build \
		.pytest_cache .mypy_cache .ruff_cache .hypothesis
