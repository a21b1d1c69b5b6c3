#!/usr/bin/env bash
# Proves that a full disk does no harm: fetch, quantize and merge say so and leave nothing under the
# final name, and the same command goes on when there is room.
#
#   scripts/proofs-disk.sh
#
# The full disk is a tmpfs in a mount namespace of our own; skipped, saying so, where the kernel does
# not give one. Needs Python, and for fetch the test hub:
# cargo build --release --workspace --example hub
set -euo pipefail
repository=$(cd "$(dirname "$0")/.." && pwd)
if [ -z "${IN_NAMESPACE:-}" ]; then
    if ! unshare --user --map-root-user --mount true 2>/dev/null; then
        echo "proofs-disk: skipped, this kernel gives no mount namespace" >&2
        exit 0
    fi
    IN_NAMESPACE=1 exec unshare --user --map-root-user --mount "$0" "$@"
fi

PATH=$repository/target/release:$PATH
work=$(mktemp -d)
disk=$work/disk
servers=()
trap 'for server in "${servers[@]:-}"; do [ -z "$server" ] || kill "$server"; done; umount "$disk" 2>/dev/null || true; rm -rf "$work"' EXIT
mkdir "$disk"
failed=0

proved() {
    echo "proved  $1"
}

fail() {
    echo "FAILED  $1"
    tail -3 "$work/log"
    failed=1
}

# A disk of so many MiB: disk 20
disk() {
    umount "$disk" 2>/dev/null || true
    mount -t tmpfs -o "size=$1m" tmpfs "$disk"
}

# Makes $disk/out, which has to fail for want of room: refused LABEL COMMAND...
refused() {
    local label=$1
    shift
    if "$@" -o "$disk/out" >/dev/null 2>"$work/log"; then
        fail "$label: ended well on a full disk"
    elif ! grep -q '^hint: free some disk space' "$work/log"; then
        fail "$label: does not say what to do"
    elif [ -n "$(find "$disk/out" -type f -not -path '*/.*' 2>/dev/null)" ]; then
        fail "$label: left something under the final name"
    else
        proved "$label: $(grep -o 'error: .*' "$work/log")"
    fi
}

# The same command with room gives what it gives elsewhere: goes_on LABEL COMMAND...
goes_on() {
    local label=$1
    shift
    if "$@" -o "$disk/out" >/dev/null 2>"$work/log" && diff -r -x made-by.json "$disk/out" "$work/expected"; then
        proved "$label: with room the same command gives the same bytes"
    else
        fail "$label: does not go on"
    fi
    rm -rf "$work/expected"
}

model=$work/model
python3 "$repository/scripts/random-model.py" small "$model" >/dev/null
# Nobody counts on the tokenizer, so it is this that no longer fits.
head -c 12000000 /dev/urandom >"$model/tokenizer.json"
quantize "$model" -q -o "$work/nf4" >/dev/null
python3 - "$repository" "$work" <<'PYTHON'
import importlib.util, sys
from pathlib import Path
repository, work = sys.argv[1:]
spec = importlib.util.spec_from_file_location("bench_weights", f"{repository}/scripts/bench-weights.py")
bench = importlib.util.module_from_spec(spec)
spec.loader.exec_module(bench)
bench.write_adapter(Path(work, "adapter"), Path(work, "nf4"), bench.shapes(Path(work, "model")))
PYTHON

quantize=(quantize "$model" -q)
disk 5
refused "quantize, no room for the weights" "${quantize[@]}"
disk 12
refused "quantize, no room for the tokenizer" "${quantize[@]}"
mount -o remount,size=64m "$disk"
"${quantize[@]}" -o "$work/expected" >/dev/null
goes_on quantize "${quantize[@]}"

merge=(merge "$work/adapter" -q)
disk 10
refused "merge, no room for the weights" "${merge[@]}"
disk 30
refused "merge, no room for the tokenizer" "${merge[@]}"
mount -o remount,size=64m "$disk"
"${merge[@]}" -o "$work/expected" >/dev/null
goes_on merge "${merge[@]}"

if [ -x "$repository/target/release/examples/hub" ]; then
    "$repository/target/release/examples/hub" "$model" >"$work/url" &
    servers+=($!)
    until [ -s "$work/url" ]; do sleep 0.1; done
    fetch=(fetch bench/name -q --endpoint "$(cat "$work/url")")
    disk 20
    refused "fetch, no room for the files" "${fetch[@]}"
    mount -o remount,size=64m "$disk"
    "${fetch[@]}" -o "$work/expected" >/dev/null
    goes_on fetch "${fetch[@]}"
else
    echo "skipped fetch: the test hub is not built" >&2
fi

rm -f "$work/url"
python3 - >"$work/url" <<'PYTHON' &
import http.server

class Endless(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        while self.command == "GET":
            self.wfile.write(bytes(1 << 20))

    do_HEAD = do_GET
    log_message = log_error = lambda *_: None

server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Endless)
server.handle_error = lambda *_: None
print(f"http://127.0.0.1:{server.server_port}/endless", flush=True)
server.serve_forever()
PYTHON
servers+=($!)
until [ -s "$work/url" ]; do sleep 0.1; done
disk 300
refused "fetch, a file without an end" fetch "$(cat "$work/url")" -q
exit "$failed"
