# make demo   see the main job on the sample data
# make test   run everything that must pass
# make wheel  make a wheel with compiled kernels inside, in dist/: minutes
# make docs   build the documentation as a site, in docs/_build/html
# make rules  draw the pictures of rules in docs/labels.md anew, in docs/rules
# make soak   try bad input, failing systems and interrupts: up to an hour
# make bench  time all that is ours, and say what changed since the last run: 5 minutes
#
# Races, see benchmarks/README.md:
# make bench-epoch     the loader beside a loop that parses every file every time
# make bench-raster    drawing contours beside the tools for it
# make bench-first-use seconds to the first result where nothing is compiled yet
# make bench-dicom     reading DICOM files beside pydicom and dicomsdl
# make bench-build     building a store beside a plain loop and the disk's limit
# make bench-compress  compressed stores beside plain ones
# make bench-rtstruct  structure sets beside pydicom, the disk and their peers
# make bench-scale     a store of a million samples, many stores as one, builds by parts
# make bench-loader    the loader beside its peers (installs them: some GB)
# make bench-augment   augmentation beside its peers (the same)
# make bench-volumes   patches and neighbours of volumes beside the peers (the same)

PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)
SHELL := /bin/sh
# Not make's default, so that every line goes through a shell and finds that PATH.
.SHELLFLAGS := -e -c
# The tests start hundreds of processes: each compiles all that it imports anew, 0.3 s,
# where this variable keeps Python from writing compiled modules.
unexport PYTHONDONTWRITEBYTECODE
# Each process of tests takes up to 2 GB.
PARALLEL := -n auto --maxprocesses 4 --dist worksteal
# Python compiles what it imports. pip would compile all modules, most of them of other
# packages and never imported: 50 s of one core.
PIP := python -m pip --disable-pip-version-check install --quiet --no-compile

.PHONY: demo test lint wheel docs rules soak bench bench-epoch bench-raster bench-dicom bench-build \
	bench-compress bench-rtstruct bench-scale bench-loader bench-augment bench-volumes \
	bench-first-use clean

demo: $(VENV)/.demo
	@rm -rf demo && mkdir demo
	@echo
	@echo "The sample data: four synthetic hearts with their contours, as text files."
	fastseg link data/phantom -o demo/links.csv
	@echo
	fastseg build demo/links.csv -o demo/heart.h5
	@echo
	fastseg info demo/heart.h5
	@echo
	python examples/one_epoch.py demo/heart.h5
	@echo
	fastseg show demo/heart.h5 -o demo/heart.png
	@echo
	@echo "And three synthetic CTs with DICOM structure sets, in which names of ROIs differ."
	fastseg rois data/phantom_rt --aliases data/phantom_rt.toml
	@echo
	fastseg link data/phantom_rt --aliases data/phantom_rt.toml -o demo/chest.csv
	@echo
	fastseg build demo/chest.csv -o demo/chest.h5
	@echo
	fastseg info demo/chest.h5
	@echo
	fastseg show demo/chest.h5 -o demo/chest.png
	@echo
	@echo "A study with faults in its labels, which check finds:"
	fastseg link data/phantom_faulty -o demo/faulty.csv
	@echo
	fastseg build demo/faulty.csv -o demo/faulty.h5
	@echo
	fastseg check demo/faulty.h5 -o demo/report.html || test $$? = 4
	@echo
	@echo "Done. The stores are demo/heart.h5 and demo/chest.h5, the pictures"
	@echo "demo/heart.png and demo/chest.png, and the report of faults demo/report.html."

# Tests run side by side: with threads of their own, PyTorch and OpenBLAS wait for each
# other, in three times the processor time.
test: export OMP_NUM_THREADS := 1
test: $(VENV)/.test lint
	pytest $(PARALLEL)
	@echo "The kernels' tests again, without compiling:"
	NUMBA_DISABLE_JIT=1 pytest $(PARALLEL) -m kernel $$(grep -rl --include="*.py" pytest.mark.kernel tests)
	@echo "And with the code for other processors:"
	for level in $$(python -m tests.levels); do \
		FASTSEG_CPU=$$level pytest $(PARALLEL) -m kernel tests/kernels tests/raster; done

lint: $(VENV)/.test
	ruff check
	ruff format --check
	mypy

# As any pure wheel, but with the hook of fastseg/_kernels/native/wheel.py.
wheel: $(VENV)/.wheel
	HATCH_BUILD_HOOK_ENABLE_CUSTOM=true \
		python -m hatchling build --target wheel --directory dist

docs: $(VENV)/.docs
	sphinx-build -E -W --keep-going --quiet -b html docs docs/_build/html
	@echo "The start page is docs/_build/html/index.html."

rules: $(VENV)/.test
	python -m tests.quality.draw_rules

soak: $(VENV)/.test
	python -m tests.soak

# pytest-benchmark warns if there is no run to compare with, or of another processor.
bench: $(VENV)/.test
	python -m pytest benchmarks --quiet --benchmark-enable --benchmark-disable-gc \
		--benchmark-autosave --benchmark-compare --benchmark-sort=name \
		--benchmark-columns=median,iqr,rounds \
		-W ignore::pytest_benchmark.logger.PytestBenchmarkWarning
	@echo
	python -m benchmarks.changes

bench-epoch: $(VENV)/.bench
	python -m benchmarks.loader.epoch_rate

bench-raster: $(VENV)/.bench
	python -m benchmarks.raster.race

bench-first-use: wheel
	python -m benchmarks.kernels.first_use --wheel dist/*-manylinux*.whl

bench-dicom: $(VENV)/.bench
	python -m benchmarks.dicom.race
	python -m benchmarks.dicom.tree

bench-build: $(VENV)/.bench
	python -m benchmarks.build.race

bench-compress: $(VENV)/.bench
	python -m benchmarks.build.compression

# Needs 14 GB of disk for half an hour, and real data for the last one.
bench-rtstruct: $(VENV)/.bench
	python -m benchmarks.structure_sets.arrays
	python -m benchmarks.structure_sets.link
	python -m benchmarks.structure_sets.build
	python -m benchmarks.structure_sets.peers

bench-scale: $(VENV)/.bench
	python -m benchmarks.store.scale
	python -m benchmarks.store.concat
	python -m benchmarks.build.plan
	python -m benchmarks.build.parts
	python -m benchmarks.build.cluster_simulation

bench-loader: $(VENV)/.peers
	python -m benchmarks.loader.race

bench-augment: $(VENV)/.peers
	python -m benchmarks.augment.race

# Needs 1 GB of disk.
bench-volumes: $(VENV)/.peers
	python -m benchmarks.volumes.peers
	python -m benchmarks.volumes.neighbours
	python -m benchmarks.volumes.memory

clean:
	rm -rf $(VENV) demo dist docs/_build

$(VENV)/pyvenv.cfg:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "fastseg needs Python 3.11 or newer, this is %s: make PYTHON=/path/to/python3.11" % sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo: pyproject.toml $(VENV)/pyvenv.cfg
	$(PIP) --editable ".[report,show]"
	@touch $@

$(VENV)/.test: pyproject.toml $(VENV)/pyvenv.cfg
	$(PIP) --editable ".[test]"
	@touch $@

$(VENV)/.wheel: pyproject.toml $(VENV)/pyvenv.cfg
	$(PIP) --editable . "hatchling>=1.25"
	@touch $@

$(VENV)/.docs: pyproject.toml $(VENV)/pyvenv.cfg
	$(PIP) --editable ".[docs]"
	@touch $@

$(VENV)/.peers: pyproject.toml $(VENV)/pyvenv.cfg
	$(PIP) --editable ".[bench,compress,peers,show,torch]"
	@touch $@

$(VENV)/.bench: pyproject.toml $(VENV)/pyvenv.cfg
	$(PIP) --editable ".[bench,compress,show]"
	@touch $@
