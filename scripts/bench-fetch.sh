#!/usr/bin/env bash
# Compares fetch with aria2c and hf on loopback: one run of a few minutes, medians of RUNS downloads each
# (5), those of one tool in a row, so that each finds memory and disk as it left them itself.
#
#   scripts/bench-fetch.sh                              one file of 269 MB, in memory
#   SHARDS=4 MB=1024 BENCH_DIR=/var/tmp scripts/...     four files of 1 GiB, on a disk
#
# nginx serves a hub's API from static files; the bad lines are those of the test hub. Tools that are
# not installed are left out, saying so. fetch checks every sha256 and returns when all is on the disk;
# "+ sync" is aria2c and then the sync of what it brought.
set -euo pipefail

repository=$(cd "$(dirname "$0")/.." && pwd)
fetch=${FETCH:-$repository/target/release/fetch}
shards=${SHARDS:-1}
megabytes=${MB:-257}
work=$(mktemp -d "${BENCH_DIR:-/dev/shm}/bench-fetch.XXXXXX")
port=$((20000 + RANDOM % 20000))
commit=0123456789abcdef0123456789abcdef01234567
children=()

cleanup() {
    for child in "${children[@]:-}"; do
        if [ -n "$child" ]; then kill "$child" 2>/dev/null || true; fi
    done
    rm -rf "$work"
}
trap cleanup EXIT

for tool in nginx aria2c python3; do
    if ! command -v "$tool" >/dev/null; then
        echo "bench-fetch: skipped, $tool is not installed" >&2
        exit 0
    fi
done

chmod 755 "$work"
mkdir "$work/files"
python3 - "$work" "$shards" "$megabytes" "$port" "$commit" <<'PYTHON'
import hashlib, json, os, sys

work, shards, megabytes, port, commit = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
entries, locations = [], ""
for shard in range(shards):
    name = f"model-{shard + 1:05}-of-{shards:05}.safetensors"
    sha256 = hashlib.sha256()
    with open(f"{work}/files/{name}", "wb") as file:
        for _ in range(megabytes):
            block = os.urandom(1 << 20)
            sha256.update(block)
            file.write(block)
    oid = sha256.hexdigest()
    lfs = {"oid": oid, "size": megabytes << 20, "pointerSize": 134}
    entries.append({"type": "file", "path": name, "size": megabytes << 20, "oid": "f" * 40, "lfs": lfs})
    locations += f"""
        location = /files/{name} {{
            alias {work}/files/{name};
            add_header X-Repo-Commit {commit};
            add_header X-Linked-Etag '"{oid}"';
            add_header X-Linked-Size {megabytes << 20};
        }}"""
siblings = [
    {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"],
     "lfs": {"sha256": entry["lfs"]["oid"], "size": entry["size"], "pointerSize": 134}}
    for entry in entries
]
json.dump(entries, open(f"{work}/tree.json", "w"))
json.dump({"sha": commit, "id": "bench/name", "siblings": siblings}, open(f"{work}/revision.json", "w"))
server = lambda port, limit: f"""
    server {{
        listen 127.0.0.1:{port};
        limit_rate {limit};
        default_type application/json;
        location /api/models/bench/name/revision/ {{ rewrite .* /revision.json last; }}
        location /api/models/bench/name/tree/ {{ rewrite .* /tree.json last; }}
        location ~ ^/(revision|tree).json$ {{ root {work}; }}
        location /bench/name/resolve/ {{ rewrite ^/bench/name/resolve/[^/]+/(.*)$ /files/$1 last; }}{locations}
    }}"""
temporary = "".join(f"{kind}_temp_path {work}/t; " for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
open(f"{work}/nginx.conf", "w").write(f"""
daemon off; worker_processes 2; pid {work}/nginx.pid; error_log {work}/error.log;
events {{ worker_connections 256; }}
http {{
    access_log off; sendfile on; keepalive_requests 100000; {temporary}
    {server(port, "0")}
    {server(port + 1, "20m")}
}}""")
PYTHON
nginx -c "$work/nginx.conf" &
children+=($!)
names=$(cd "$work/files" && ls)
total=$((shards * megabytes))
sleep 0.5

# Prints the median time, and CPU seconds and peak memory of the median run: measure LABEL COMMAND...
measure() {
    local label=$1
    shift
    : >"$work/times"
    for _ in $(seq "${RUNS:-5}"); do
        rm -rf "$work/out" "$work/hf"
        sync -f "$work"
        timeout 60 /usr/bin/time -a -o "$work/times" -f "%e %U %S %M" "$@" >/dev/null 2>"$work/errors" ||
            { printf '%-34s failed, or took more than a minute: %s\n' "$label" "$(tail -1 "$work/errors")"; return 0; }
    done
    rm -rf "$work/out" "$work/hf"
    grep -E '^[0-9.]+ [0-9.]+ [0-9.]+ [0-9]+$' "$work/times" | sort -n | awk -v label="$label" -v mb="$total" '
        { line[NR] = $0 }
        END {
            split(line[int((NR + 1) / 2)], f, " ")
            printf "%-34s %7.2f s %8.0f MiB/s %6.2f CPU s/GiB %5.0f MiB\n", label, f[1], mb / f[1], (f[2] + f[3]) * 1024 / mb, f[4] / 1024
        }'
}

# aria2c of every file below an address: aria CONNECTIONS ADDRESS ["&& COMMAND"]
aria() {
    local connections=$1 address=$2 then=${3:-} list=$work/aria.list
    for name in $names; do echo "$address/$name"; done >"$list"
    measure "aria2c -x$connections${then:+ + sync}" sh -c "aria2c -q -j4 -x$connections -s$connections \
        --max-tries=50 --retry-wait=0 -d $work/out -i $list $then"
}

ours() {
    local endpoint=$1
    shift
    measure "fetch $*" "$fetch" bench/name -q -o "$work/out" --endpoint "$endpoint" "$@"
}

echo "== $shards x $megabytes MiB, unthrottled"
ours "http://127.0.0.1:$port"
for connections in 8 16; do
    aria "$connections" "http://127.0.0.1:$port/files"
    aria "$connections" "http://127.0.0.1:$port/files" "&& sync -d $work/out/*"
done
hf=${HF:-$(command -v hf || true)}
if [ -n "$hf" ]; then
    HF_ENDPOINT="http://127.0.0.1:$port" HF_HUB_DISABLE_XET=1 HF_HOME="$work/hf" \
        measure "hf download" "$hf" download bench/name --local-dir "$work/out"
else
    echo "hf download: not installed (set HF=/path/to/hf)"
fi

if [ "$shards" = 1 ]; then
    echo "== 20 MiB/s a request, after what nginx sends at once"
    for connections in 8 16; do
        ours "http://127.0.0.1:$((port + 1))" -c "$connections"
        aria "$connections" "http://127.0.0.1:$((port + 1))/files"
    done

    (cd "$repository" && cargo build --release --workspace --example hub --locked --quiet)
    hub=$repository/target/release/examples/hub
    # Starts the test hub with numbers as in tests/examples/hub.rs, and names its endpoint.
    serve() {
        rm -f "$work/hub.url"
        "$hub" "$work/files" "$@" >"$work/hub.url" &
        children+=($!)
        until [ -s "$work/hub.url" ]; do sleep 0.1; done
        endpoint=$(cat "$work/hub.url")
        address=$endpoint/bench/name/resolve/main
    }
    echo "== 20 MiB/s a connection: 8 can bring 160 MiB/s, 16 can bring 320 MiB/s"
    serve rate=20971520
    for connections in 8 16; do
        ours "$endpoint" -c "$connections"
        aria "$connections" "$address"
    done
    echo "== 50 ms before every answer, 1 % of them reset"
    serve latency=50 resets=1
    ours "$endpoint"
    measure "fetch ADDRESS, as aria2c has it" "$fetch" "$address/$names" -q -o "$work/out"
    aria 8 "$address"
    aria 16 "$address"
    echo "== 20 MiB/s a connection, 50 ms before every answer, 8 % of them stall, 8 % come with 100 KB/s"
    serve latency=50 stalls=8 slow=8 rate=20971520
    ours "$endpoint"
    ours "$endpoint" -c 16
    RUNS=1 aria 16 "$address"
fi
