# make demo    a real small model through all five tools
# make test    every test
# make check   formatting and lints
# make bench   speed and memory, beside the Python peers where they are installed

MODEL := demo/model/SmolLM2-135M-Instruct
CARGO ?= cargo

.PHONY: build demo test check bench model clean-demo

build:
	$(CARGO) build --release --workspace --locked

demo: build
	bash scripts/demo.sh

# The tests on the real model say that they are skipped where it cannot be had.
test:
	-bash scripts/demo-model.sh $(MODEL)
	$(CARGO) test --release --workspace --locked

check:
	$(CARGO) fmt --all --check
	$(CARGO) clippy --release --workspace --all-targets --locked -- -D warnings

bench: build model
	bash scripts/bench.sh

model: build
	bash scripts/demo-model.sh $(MODEL)

clean-demo:
	rm -rf demo
