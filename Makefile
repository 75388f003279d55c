# The two commands of the README, and what else its keepers run. `make help` lists them.

SHELL := /bin/sh
# Where Debian's and rustup's cargo may lie; hack/setup.sh installs one where there is none.
export PATH := $(HOME)/.cargo/bin:$(PATH)
CARGO ?= cargo

.PHONY: help demo test chaos hostile fuzz deny test-unit test-upgrade test-oldest-kubernetes test-node test-kueue check wasm edge crds chart openapi docs build bench bench-peers clean

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-23s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: ## Transcode a video through the whole system on this machine (FILE=path for your own)
	@hack/setup.sh demo
	@$(CARGO) build --locked
	@hack/demo.sh

test: ## Format check, lints, and all tests on the real parts
	@hack/setup.sh test
	@hack/envtest.sh >/dev/null
	@hack/helm.sh >/dev/null
	@hack/kueue.sh >/dev/null
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	@hack/wasm.sh
	@hack/edge-build.sh
	@hack/packages.sh
	@hack/deny.sh
	@# Most tests wait for processes most of the time.
	@assets=$$(hack/envtest.sh) && KUBEBUILDER_ASSETS="$$assets" RUST_TEST_THREADS=$$(($$(nproc) + 2)) \
	  $(CARGO) test --locked

chaos: ## 2,000 jobs while everything fails at random, and a check of what must hold (CHAOS_JOBS, CHAOS_SEED)
	@hack/setup.sh test
	@hack/edge-build.sh
	CHAOS_JOBS=$${CHAOS_JOBS:-2000} $(CARGO) test --locked --test it -- --exact --nocapture \
	  chaos::jobs_end_once_and_leave_nothing_behind_whatever_fails

hostile: ## 1,000 damaged files, each of which must end in a failure or in verified outputs (HOSTILE_FILES, HOSTILE_SEED)
	@hack/setup.sh test
	HOSTILE_FILES=$${HOSTILE_FILES:-1000} $(CARGO) test --locked --test it -- --exact --nocapture \
	  mutations::damaged_files_end_in_a_failure_or_in_verified_outputs

fuzz: ## Fuzz every parser of what others send with libFuzzer (FUZZ_SECONDS for each, 60; FUZZ_PARSERS, by name)
	@hack/setup.sh fuzz
	@CARGO="$(CARGO)" hack/fuzz.sh $(FUZZ_PARSERS)

deny: ## Check licences, sources and duplicates of the dependencies, and known vulnerabilities where the database is reached
	@hack/setup.sh deny
	@hack/deny.sh

test-unit: ## The unit tests of the library alone, which need no server and no other program
	$(CARGO) test --locked --lib

test-upgrade: ## A rolling upgrade from the version before (hack/previous.sh), in both orders and back
	@hack/setup.sh test
	@binary=$$(hack/previous.sh) && TCODER_PREVIOUS="$$binary" $(CARGO) test --locked --test upgrade

test-oldest-kubernetes: ## The tests of the operator, the manifests and the chart on the oldest supported version of Kubernetes
	@hack/setup.sh test
	@hack/helm.sh >/dev/null
	@hack/kueue.sh >/dev/null
	@assets=$$(KUBERNETES=oldest hack/envtest.sh) && KUBERNETES=oldest KUBEBUILDER_ASSETS="$$assets" \
	  $(CARGO) test --locked --test it -- operator:: manifests:: helm:: prometheus::

test-node: ## tcoder on a real node: containerd, kubelet, scheduler, pods (root; hack/test-node.sh)
	@CARGO="$(CARGO)" hack/test-node.sh

test-kueue: ## TranscodeJobs in the queues of a real Kueue, whose controller hack/kueue.sh builds once
	@hack/setup.sh test
	@hack/kueue.sh controller >/dev/null
	@assets=$$(hack/envtest.sh) && KUBEBUILDER_ASSETS="$$assets" $(CARGO) test --locked --test kueue -- --nocapture

check: ## Only format and lints
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings

wasm: ## Lints of what runs at the edge, compiled to wasm32
	@hack/setup.sh wasm
	@hack/wasm.sh

edge: ## The Cloudflare Worker, into edge/build
	@hack/edge-build.sh

crds: ## Write manifests/crds/crds.yaml anew, after a change of src/crd, and the copies in the Helm chart
	$(CARGO) build --locked
	target_dir=$${CARGO_TARGET_DIR:-target} && "$$target_dir/debug/tcoder" crd > manifests/crds/crds.yaml
	@hack/chart.sh

chart: ## Copy the definitions and the rules of roles into the Helm chart, after a change of them in manifests
	@hack/chart.sh

openapi: ## Write web/openapi.json anew, after a change of the API
	$(CARGO) build --locked
	target_dir=$${CARGO_TARGET_DIR:-target} && "$$target_dir/debug/tcoder" openapi > web/openapi.json

docs: ## Write docs/configuration.md and the lists of presets and entry documents anew, after a change of their tables
	$(CARGO) build --locked
	@hack/docs.sh "$${CARGO_TARGET_DIR:-target}/debug/tcoder"

build: ## The release binary
	$(CARGO) build --locked --release

bench: ## Measure: one figure a line, and target/bench.json
	@hack/setup.sh test
	@hack/edge-build.sh
	@assets=$$(hack/envtest.sh) && KUBEBUILDER_ASSETS="$$assets" $(CARGO) bench --locked --bench figures

bench-peers: ## Measure other queues and ways to encode beside tcoder (PEERS_QUICK=1: a quick check; DOCS=1: write docs/figures.md)
	@hack/setup.sh peers
	@CARGO="$(CARGO)" hack/bench-peers.sh

clean: ## Remove what was built
	$(CARGO) clean
	rm -rf demo-output
