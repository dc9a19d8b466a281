# The one entry to every habit. Each target installs what it needs first, into .venv; nothing has to be activated.
PYTHON := .venv/bin/python
PRESET := toy
ROOT := $(CURDIR)/runs
KILLS := 70
SECONDS := inf
.DEFAULT_GOAL := help
.PHONY: help install demo submit stop-head study compare harness clients test test-all chaos chaos-long families gpu-check check format docs lock clean

help: ## this list
	@sed -n 's/^\([a-z%-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 10

install: ## the locked CPU environment in .venv
	@cluster/images/install.sh cpu .venv

demo: install ## the whole method, small, on two CPU cores: pairs, training, scores, report; PRESET=toy-qwen: with a Qwen2.5-VL
	$(PYTHON) jobs/full.py $(PRESET)

submit: install ## the demo as a job for a Ray head on loopback: PRESET=toy ROOT=/data/runs ARGS="--views moco"
	@$(PYTHON) cluster/local.py start
	@$(PYTHON) cluster/local.py job submit -- python jobs/full.py $(PRESET) --root $(ROOT) $(ARGS)

stop-head: install ## the end of that head, and of its jobs
	@$(PYTHON) cluster/local.py stop

study: install ## which augmentation, how strong, with which beta: the toy world's answer
	$(PYTHON) jobs/sweep.py

compare: install ## methods beside SeVa, and the controls that they must beat, from toy bases that hallucinate: one page
	$(PYTHON) jobs/compare.py habits

harness: ## lmms-eval, for jobs/harness.py, in .venv-harness (0.8 GB beside .venv)
	@cluster/images/install.sh cpu .venv harness

dev:
	@cluster/images/install.sh cpu .venv dev

test: dev ## the tests, with the tools they need, in two processes that share the files
	$(PYTHON) -m pytest -n 2 --dist loadfile --no-loadscope-reorder

clients: ## LLaMA-Factory and ms-swift, which tests read exported pairs and train on them with, in .venv-clients (0.4 GB beside .venv)
	@cluster/images/install.sh cpu .venv clients

test-all: dev clients ## also the tests that take minutes each
	$(PYTHON) -m pytest -m "slow or not slow"

chaos: dev ## generation while everything dies, by turns and often: 44 kills
	CHAOS_ROUNDS=6 $(PYTHON) -m pytest -m "slow or not slow" tests/chaos

chaos-long: dev ## 200 kills over whole jobs and studies, on a disk and on S3 (hours; it goes on where it was): KILLS=70 SECONDS=inf, of each
	for kind in disk s3 study; do $(PYTHON) -m tests.chaos.endurance --kind $$kind --kills $(KILLS) --seconds $(SECONDS) || exit 1; done
	for kind in disk s3; do $(PYTHON) -m tests.chaos.together --kind $$kind --starts 50 || exit 1; done

bench-%: install ## a benchmark: bench-generate, bench-train, bench-sweep, bench-plan, bench-start measure against named rivals (20, 10, 25, 3, 4 minutes); bench-encode measures encoding against each family's processor (3); bench-job shows where a job's time goes (2); bench-growth measures memory and CPU time of the stages as their rows grow (5); bench-methods measures the step of each method (3); bench-regenerate measures what regenerated images change (15)
	$(PYTHON) -m bench.$*

families: dev ## how exactly each family of models is trained, on tiny checkpoints -> docs/MODELS.md (a few minutes)
	$(PYTHON) -m bench.families

gpu-check: ## with one GPU and its environment (cluster/images/install.sh gpu .venv): what it makes of training, and its tests, 8 minutes
	$(PYTHON) -m bench.gpu
	$(PYTHON) -m pytest -m gpu tests/gpu

check: dev ## style, import boundaries, types
	.venv/bin/ruff check
	.venv/bin/ruff format --check
	.venv/bin/lint-imports
	.venv/bin/mypy

format: dev ## put the code into its style
	.venv/bin/ruff check --fix
	.venv/bin/ruff format

docs: ## the documentation as a site in build/site: README, docs/ and the docstrings of seva_ray.api (0.1 GB in .venv-docs)
	@cluster/images/install.sh cpu .venv docs
	@rm -rf build/pages && mkdir -p build/pages/cluster
	@ln -s $(addprefix $(CURDIR)/,docs README.md CHANGELOG.md CITATION.cff CONTRIBUTING.md LICENSE SECURITY.md) build/pages
	@ln -s $(CURDIR)/cluster/README.md build/pages/cluster
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --quiet --strict
	@echo "$(CURDIR)/build/site/index.html"

lock: ## resolve cluster/images/*.lock anew from pyproject.toml (five minutes, installs nothing)
	python3 -m venv build/lock
	build/lock/bin/pip install --quiet pip==26.3
	build/lock/bin/python cluster/images/lock.py

clean: ## remove what can be made again: the environment and caches; results in runs/ stay
	rm -rf .venv .venv-harness .venv-clients .venv-docs build *.egg-info .*_cache
	find . -name __pycache__ -prune -exec rm -rf {} +
