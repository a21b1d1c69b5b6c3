# make demo    a real small model through all five tools
# make test    every test
# make check   formatting and lints
# make bench   speed and memory, beside the Python peers where they are installed
# make bench-gpu   speed and memory on an NVIDIA GPU, on random weights of a 7B shape

MODEL := demo/model/SmolLM2-135M-Instruct
# NVIDIA's run-time compiler from PyPI: kernels are compiled in tests on machines without a GPU.
NVRTC := target/nvrtc
# Public chat templates, as a Python package brings them along.
TEMPLATES := target/templates
CARGO ?= cargo

.PHONY: build demo test check bench bench-gpu model clean-demo

build:
	$(CARGO) build --release --workspace --locked

demo: build
	bash scripts/demo.sh

# The tests on the real model, those that compile kernels and those of public templates say that they are
# skipped where what they need cannot be had.
test: $(NVRTC) $(TEMPLATES)
	-bash scripts/demo-model.sh $(MODEL)
	CUDA_HOME=$${CUDA_HOME:-$(CURDIR)/$(NVRTC)/nvidia/cu13} $(CARGO) test --release --workspace --locked

$(NVRTC):
	-python3 -m pip install --quiet --target $@ 'nvidia-cuda-nvrtc==13.0.*'

$(TEMPLATES):
	-python3 scripts/golden/public_templates.py $@

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings

bench: build model
	bash scripts/bench.sh

bench-gpu: build
	bash scripts/bench-gpu.sh

model: build
	bash scripts/demo-model.sh $(MODEL)

clean-demo:
	rm -rf demo
