# make         the tools, and the program qlora that has all of them
# make install qlora, the tools by their names, man pages and completions below PREFIX, as `make` has built them
# make uninstall   removes them again
# make wheel   dist/*.whl, for pip install
# make demo    a real small model through the tools
# make test    every test that needs no GPU
# make test-gpu   the tests that need an NVIDIA GPU
# make check   formatting, lints and documentation
# make bench   speed and memory, beside the Python peers where they are installed
# make bench-gpu   speed and memory on an NVIDIA GPU, on random weights of a 7B shape

MODEL := demo/model/SmolLM2-135M-Instruct
# NVIDIA's run-time compiler from PyPI: kernels are compiled in tests on machines without a GPU.
NVRTC := target/nvrtc
# Public chat templates, as Python packages bring them along.
TEMPLATES := target/templates
CARGO ?= cargo

TOOLS := fetch quantize lora-train merge evaluate chat
BUILT ?= $(or $(CARGO_TARGET_DIR),target)/release
PREFIX ?= /usr/local
INSTALLED = $(DESTDIR)$(PREFIX)
# A compiler and linker for an older glibc, from PyPI, and the oldest glibc that the wheel runs with: that of RHEL 8,
# Debian 11 and Ubuntu 20.04.
ZIG := target/zig
GLIBC := 2.28
ZIG_TARGET := x86_64-unknown-linux-gnu

.PHONY: build install uninstall wheel demo test test-gpu check bench bench-gpu model clean-demo

build:
	$(CARGO) build --release --workspace --locked

# A file of another program is never replaced or removed: this project's files name it.
install:
	@test -x $(BUILT)/qlora || { echo 'install: run make first' >&2; exit 1; }
	@for file in $(addprefix $(INSTALLED)/bin/,qlora $(TOOLS)); do \
		if test -e $$file && ! grep -qs qlora-tools $$file; then \
			echo "install: $$file is of another program; choose another PREFIX" >&2; exit 1; \
		fi; \
	done
	$(BUILT)/qlora documents --quiet --output $(INSTALLED)/share
	install -d $(INSTALLED)/bin
	install -m 755 $(BUILT)/qlora $(INSTALLED)/bin/qlora
	for tool in $(TOOLS); do install -m 755 scripts/launcher $(INSTALLED)/bin/$$tool || exit; done

DOCUMENTS := man/man1 bash-completion/completions zsh/site-functions fish/vendor_completions.d
uninstall:
	grep -ls 'made by qlora-tools' $(DOCUMENTS:%=$(INSTALLED)/share/%/*) | xargs -r rm -f
	grep -ls qlora-tools $(addprefix $(INSTALLED)/bin/,qlora $(TOOLS)) | xargs -r rm -f

wheel: $(ZIG)
	PATH=$(CURDIR)/$(ZIG)/bin:$$PATH PYTHONPATH=$(CURDIR)/$(ZIG) \
		$(CARGO) zigbuild --release --locked --package qlora --target $(ZIG_TARGET).$(GLIBC)
	python3 scripts/wheel.py $(BUILT:%/release=%/$(ZIG_TARGET)/release)/qlora --glibc $(GLIBC) -o dist

$(ZIG):
	python3 -m pip install --quiet --target $@ cargo-zigbuild==0.24.1 ziglang==0.17.1

demo: build
	bash scripts/demo.sh

# What cannot be downloaded is skipped by the tests that need it, unless QLORA_TEST_REQUIRE says that it must be
# there. Which tests were skipped, and what they lack, is said at the end.
OPTIONAL := $(if $(QLORA_TEST_REQUIRE),,-)
SKIPPED := $(CURDIR)/target/skipped-tests
TEST := mkdir -p target; rm -f $(SKIPPED); QLORA_TEST_SKIPPED=$(SKIPPED) \
	CUDA_HOME=$${CUDA_HOME:-$(CURDIR)/$(NVRTC)/nvidia/cu13} $(CARGO) test --release --locked
SAY_SKIPPED := result=$$?; if [ -e $(SKIPPED) ]; then sort $(SKIPPED) >&2; fi; exit $$result

test: $(NVRTC) $(TEMPLATES)
	$(OPTIONAL)bash scripts/demo-model.sh $(MODEL)
	$(TEST) --workspace; $(SAY_SKIPPED)

test-gpu: $(NVRTC)
	$(OPTIONAL)bash scripts/demo-model.sh $(MODEL)
	$(TEST) --package common --test 'cuda*' -- --ignored; $(SAY_SKIPPED)

$(NVRTC):
	$(OPTIONAL)python3 -m pip install --quiet --target $@ 'nvidia-cuda-nvrtc==13.0.*'

$(TEMPLATES): scripts/golden/public_templates.py
	$(OPTIONAL)python3 scripts/golden/public_templates.py $@ && touch $@

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS='-D warnings' $(CARGO) doc --release --workspace --no-deps --locked

bench: build model
	bash scripts/bench.sh

bench-gpu: build
	bash scripts/bench-gpu.sh

model: build
	bash scripts/demo-model.sh $(MODEL)

clean-demo:
	rm -rf demo
