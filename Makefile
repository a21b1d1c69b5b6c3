# make demo    a real small model through all five tools
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

.PHONY: build demo test test-gpu check bench bench-gpu model clean-demo

build:
	$(CARGO) build --release --workspace --locked

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
