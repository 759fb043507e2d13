# mgr: one binary, built and tried with two commands: `make up`, `make test`. `make` alone lists the rest.
SHELL       := /bin/bash -o pipefail
export CGO_ENABLED := 0
KUBE        := v1.37.2
VERSION     ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
X           := -X k8s.io/component-base/version.gitVersion=$(KUBE)+mgr -X k8s.io/component-base/version.gitMajor=1 \
               -X k8s.io/component-base/version.gitMinor=37 -X k8s.io/component-base/version.gitCommit=$(VERSION)
LDFLAGS     := -s -w $(X)
PREVIOUS    := 041e8a5
EMBED       := agent/embedded/files/shim.gz agent/embedded/files/runc.gz agent/embedded/files/demo.tar.gz
SOURCES     := $(shell find . -name '*.go' -not -path './bin/*') go.mod go.sum
APT         := runc iptables iproute2 conntrack busybox-static strace docker-registry
CONFORMANCE := $(addprefix bin/conformance/,e2e.test images.tar.gz run)
KLOAD       ?= ../shared/tools/kload

.DEFAULT_GOAL := help

##@ Use
.PHONY: help
help: ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s:\n", substr($$0, 5)} /^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: up
up: deps build ## install what is missing, build, and start a demo cluster on this machine (root)
	bin/mgr up

.PHONY: down
down: ## stop the demo cluster and remove every trace of it
	bin/mgr down

.PHONY: build
build: bin/mgr ## build bin/mgr

.PHONY: install
install: build ## install the binary to /usr/local/bin (see deploy/ for the services)
	install -m 0755 bin/mgr /usr/local/bin/mgr

##@ Develop
.PHONY: test
test: deps build bin/mgr-failpoints bin/mgr-previous images bin/kubectl-1.20 ## everything: unit, integration with real containers, whole clusters, failover, faults (root, ~20 min)
	test/run

.PHONY: test-long
test-long: deps build bin/mgr-failpoints images ## what takes too long for every day: 300 kills, all failpoints, 10,000 seeds, every fuzz target (see test/long)
	test/long

.PHONY: unit
unit: ## unit tests only, anywhere, without root
	go test -short ./...

.PHONY: oracle
oracle: ## compare every kind with Kubernetes' own rules: defaults, validation, updates, warnings, tables (~3 min the first time)
	go test -C test/oracle -v ./...

.PHONY: bench
bench: deps build images bin/kload ## measure a trio with kload and print the figures of docs/performance.md
	test/bench/run

.PHONY: conformance
conformance: deps build bin/kubectl $(CONFORMANCE) ## run Kubernetes' conformance tests for the API (root); FOCUS=REGEX, SKIP=REGEX for others
	$(abspath bin/conformance/run) $(if $(FOCUS),-focus '$(FOCUS)') $(if $(SKIP),-skip '$(SKIP)')

.PHONY: lint
lint: ## gofmt, vet, import rules, and golangci-lint where it is installed
	@test -z "$$(gofmt -l . | tee /dev/stderr)"
	go vet ./...
	go test ./test/arch
	@if command -v golangci-lint >/dev/null; then golangci-lint run; else echo "golangci-lint is not installed: skipped"; fi

.PHONY: generate
generate: ## write generated files again (after an upgrade of k8s.io/api)
	resource/declared/generate
	go generate ./api/tags

.PHONY: clean
clean: ## remove what was built
	rm -rf bin $(EMBED)

.PHONY: deps
deps: ## install the Debian packages that are missing
	@missing=$$(for p in $(APT); do dpkg-query -W -f '$${Status}' $$p 2>/dev/null | grep -q 'ok installed' || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	  [ "$$(id -u)" = 0 ] || { echo "missing packages: $$missing (run as root, or: apt-get install $$missing)"; exit 1; }; \
	  echo "installing $$missing"; apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $$missing >/dev/null; \
	fi

# The shim runs once for each pod and runc's deputy several times, so they are small programs of their own, carried inside the binary;
# so is the demo image.
$(EMBED) &: $(wildcard cmd/mgr-shim/*.go cmd/mgr-runc/*.go demo/*.go cmd/mkimage/*.go agent/image/*.go) go.mod go.sum
	go run ./cmd/mkimage embed
	@touch $(EMBED)

bin/mgr: $(EMBED) $(SOURCES) cmd/local/demo.yaml
	@mkdir -p bin
	go build -ldflags "$(LDFLAGS)" -o $@ ./cmd/mgr

# The same program with points at which tests kill it, and a wall clock that tests move (see failpoint/).
bin/mgr-failpoints: $(EMBED) $(SOURCES) cmd/local/demo.yaml $(wildcard failpoint/*.s)
	@mkdir -p bin
	go build -tags failpoints -ldflags "$(LDFLAGS) -checklinkname=0" -o $@ ./cmd/mgr

# The version before, for tests of upgrades. A shallow clone does not have it: those tests say so and run with what they have.
bin/mgr-previous: $(EMBED) Makefile
	@if ! git cat-file -e $(PREVIOUS)^{commit} 2>/dev/null; then echo "this clone does not have $(PREVIOUS), the version before"; exit 0; fi; \
	set -e; rm -rf bin/previous; mkdir -p bin/previous; git archive $(PREVIOUS) | tar -x -C bin/previous; \
	cp $(EMBED) bin/previous/agent/embedded/files/; \
	go build -C bin/previous -ldflags "$(subst $(VERSION),$(PREVIOUS),$(LDFLAGS))" -o ../mgr-previous ./cmd/mgr; rm -rf bin/previous

.PHONY: images
images: bin/images/busybox.tar.gz

bin/images/busybox.tar.gz: $(wildcard cmd/mkimage/*.go)
	@mkdir -p bin/images
	go run ./cmd/mkimage busybox $@

bin/kubectl: $(wildcard test/kubectl/*.go) go.mod go.sum
	go build -ldflags "-s -w $(subst +mgr,,$(X))" -o $@ ./test/kubectl

# Kubernetes' tests, in a module of their own: the first build takes ten minutes.
bin/conformance/e2e.test bin/conformance/agnhost &: test/conformance/go.mod test/conformance/go.sum
	@mkdir -p bin/conformance
	go test -C test/conformance -c -ldflags '-s -w $(X)' -o $(CURDIR)/bin/conformance/e2e.test k8s.io/kubernetes/test/e2e
	go build -C test/conformance -ldflags '-s -w' -o $(CURDIR)/bin/conformance/agnhost k8s.io/kubernetes/test/images/agnhost
	@touch bin/conformance/e2e.test bin/conformance/agnhost

bin/conformance/images.tar.gz: bin/conformance/agnhost $(wildcard cmd/mkimage/*.go agent/image/*.go test/conformance/programs/*/*.go)
	go run ./cmd/mkimage conformance bin/conformance/agnhost $@
	@touch $@

bin/conformance/run: $(wildcard test/conformance/run/*.go)
	go build -C test/conformance -o $(CURDIR)/$@ ./run

# Debian's kubectl, from its package but not installed: users have it, and its client is seventeen releases old.
bin/kubectl-1.20:
	@mkdir -p bin && dir=$$(mktemp -d) && chmod 0755 $$dir && cd $$dir && { apt-get download -qq kubernetes-client || { apt-get update -qq && apt-get download -qq kubernetes-client; }; } && dpkg -x kubernetes-client_*.deb . && \
	  install -m 0755 usr/bin/kubectl $(CURDIR)/$@ && rm -rf $$dir

bin/kload: $(wildcard $(KLOAD)/*.go)
	go build -C $(KLOAD) -o $(CURDIR)/$@ .
