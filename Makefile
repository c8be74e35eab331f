# What a person runs. Every target installs or names what it needs (tests/needs).
SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

BED ?= default
HELM ?= 4
export BED

# Compiled things are kept outside the tree, so that a fresh clone builds what changed only.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/etcd-scaler
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_TERM_PROGRESS_WHEN ?= never
# The images that the bed loads; names without a registry, so that nothing is ever pulled.
IMAGE := localhost/etcd-scaler:dev
TRAFFIC := localhost/etcd-scaler-traffic:dev
IMAGES := $(CACHE)/images
# The product with failpoints, for tests only: never in dist/, never shipped.
FAILPOINTS := localhost/etcd-scaler:failpoints
# The host's target is named because static linking must not reach build scripts and macros.
TARGET = $(shell rustc -vV | sed -n 's/^host: //p')
# Members sit on nodes of their own: five of them, the largest scale that is shown, and one node to spare; in
# test-all there are seven.
test demo bench: export NODES ?= 6
test-all: export NODES ?= 7
# release for what is shown and shipped; quick compiles in a third of the time, for trying things out.
PROFILE ?= release
# In the bed, or in the current context with BED=none.
IN := $(if $(filter none,$(BED)),,tests/bed/enter)

.PHONY: help check test test-all demo bench bed bed-down dist image images test-images fmt

help: ## This list
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 20

check: ## fmt, clippy with warnings as errors, unit, property and snapshot tests
	tests/needs build
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	cargo clippy --locked --workspace --all-targets --features hook/failpoints -- --deny warnings
	INSTA_UPDATE=no cargo test --locked --workspace

test: check test-images bed ## check, then the main job on a real cluster
	cargo test --locked -p tests --no-run
	$(if $(filter none,$(BED)),,tests/with-programs)
	$(IN) tests/on-cluster

test-all: check test-images bed ## test, and every scenario of what clusters do to it (hours)
	cargo test --locked -p tests --no-run
	cargo test --locked -p membership explored -- --ignored
	$(if $(filter none,$(BED)),,TRACES=50 RUNS=200 tests/with-programs)
	ALL=1 $(IN) tests/on-cluster

demo: images bed ## three members under load become four (HELM=3, WAIT=1)
	HELM=$(HELM) $(IN) tests/demo.sh

bench: images bed ## seconds per step, write stalls, memory, image size, a million keys (PART=scales, PART=keys)
	cargo build --locked -p tests --bin bench
	$(IN) tests/bench.sh $(PART)

bed: ## build what is missing, start the cluster, load the images
ifneq ($(BED),none)
	BED_IMAGES="$$(echo $(IMAGES)/*.tar)" tests/bed/bed up
endif

bed-down: ## take the cluster down, leave nothing behind
	tests/bed/bed down

STATIC := RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --profile $(PROFILE)
BUILT = $(CARGO_TARGET_DIR)/$(TARGET)/$(PROFILE)

dist: ## the static binaries, into dist/
	tests/needs build
	$(STATIC) --target $(TARGET) -p hook -p webhook -p tests --bins
	mkdir -p dist
	cp $(addprefix $(BUILT)/,hook webhook traffic) dist/
	! grep -q ETCD_SCALER_FAILPOINT dist/* # what is shipped has none

image: images ## the image, packed with buildah
images: dist
	tests/pack $(IMAGE) Dockerfile $(IMAGES)/etcd-scaler.tar
	tests/pack $(TRAFFIC) tests/traffic.Dockerfile $(IMAGES)/traffic.tar

# The same packages as for dist, so that what they depend on is compiled once for both.
test-images: images
	$(STATIC) --target $(TARGET) -p hook -p webhook -p tests --bins --features hook/failpoints
	mkdir -p $(CACHE)/failpoints/dist
	cp $(addprefix $(BUILT)/,hook webhook) $(CACHE)/failpoints/dist/
	grep -q ETCD_SCALER_FAILPOINT $(CACHE)/failpoints/dist/hook
	tests/pack $(FAILPOINTS) Dockerfile $(IMAGES)/failpoints.tar $(CACHE)/failpoints

fmt: ## format the sources
	cargo fmt --all
