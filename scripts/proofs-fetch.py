#!/usr/bin/env python3
"""Prove fetch against servers and tools that others wrote, on loopback.

    scripts/proofs-fetch.py [--bin target/release]

nginx            gives the same bytes over several connections, in ranges or without them.
http.server      of Python, which knows no ranges: one stream, the same bytes.
uvicorn          sends without a length: one stream, the same bytes.
olah             a mirror with an API of its own, in front of the test hub: the same bytes when
                 it has nothing and when it has everything.
huggingface_hub  fetch finds the cache that `hf download` wrote and fetches nothing again;
                 snapshot_download and `hf` find the cache that fetch wrote, and are content.

Every proof prints one line; what is not installed is skipped, saying so. Exits with 1 when a proof
fails. The test hub is built with `cargo build --release --workspace --example hub`. Takes from PyPI:
pip install huggingface_hub olah uvicorn.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Iterator

NAME = "bench/name"
SIZES = {"config.json": 700, "vocab.txt": 90_000, "model-00001-of-00002.safetensors": 24_000_000,
         "model-00002-of-00002.safetensors": 9_000_001}  # fmt: skip
LARGEST = "model-00001-of-00002.safetensors"
Proof = tuple[str, bool, str]

CHUNKED_APP = """
import os
async def app(scope, receive, send):
    assert scope["type"] == "http"
    await send({"type": "http.response.start", "status": 200, "headers": []})
    if scope["method"] == "GET":
        with open(os.environ["FILES"] + scope["path"], "rb") as file:
            while piece := file.read(1 << 16):
                await send({"type": "http.response.body", "body": piece, "more_body": True})
    await send({"type": "http.response.body", "body": b""})
"""


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@contextmanager
def server(command: list[str], port: int, log: Path, **variables: str) -> Iterator[None]:
    """A server that accepts connections at `port` for as long as the block lasts."""
    with log.open("wb") as output:
        environment = {**os.environ, **variables}
        process = subprocess.Popen(command, stdout=output, stderr=output, cwd=log.parent, env=environment)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            if process.poll() is not None:
                sys.exit(f"proofs-fetch: {command[0]} ended\n{log.read_text()[-1000:]}")
            time.sleep(0.1)
        yield
    finally:
        process.terminate()
        process.wait()


def tool(name: str) -> str | None:
    """A program beside this Python, or on the PATH."""
    beside = Path(sys.executable).parent / name
    return str(beside) if beside.exists() else shutil.which(name)


class Place:
    """A scratch directory with the files to serve, and how to run fetch in it."""

    def __init__(self, root: Path, binaries: Path) -> None:
        self.root, self.files, self.fetch_binary = root, root / "files", binaries / "fetch"
        self.files.mkdir()
        numbers = random.Random(1)
        for name, size in SIZES.items():
            (self.files / name).write_bytes(numbers.randbytes(size))

    def run(self, *command: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs a command in the scratch directory, with no environment of the user's that matters."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
        environment = {**inherited, "HF_HUB_DISABLE_XET": "1", **variables}
        return subprocess.run([*map(str, command)], cwd=self.root, env=environment, text=True, capture_output=True)

    def fetch(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Runs fetch."""
        return self.run(self.fetch_binary, *arguments, **variables)

    def is_whole(self, directory: Path) -> bool:
        """Whether a directory holds the bytes of every file."""
        return all(
            (directory / name).is_file() and (directory / name).read_bytes() == (self.files / name).read_bytes()
            for name in SIZES
        )


def brings(place: Place, url: str, output: str) -> Proof:
    """fetch brings the largest file from `url`."""
    run = place.fetch(f"{url}/{LARGEST}", "-c", "8", "-o", output)
    path = place.root / output
    is_same = path.is_file() and path.read_bytes() == (place.files / LARGEST).read_bytes()
    return output, run.returncode == 0 and is_same, f"the same bytes as the server's {run.stderr if not is_same else ''}"


def nginx(place: Place) -> Iterator[Proof]:
    """A static server with and without ranges."""
    program, port, folder = tool("nginx"), free_port(), place.root / "nginx"
    if program is None:
        return print("skipped nginx: not installed", flush=True)
    folder.mkdir()
    temporary = "".join(f"{kind}_temp_path {folder}/t; " for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    (folder / "nginx.conf").write_text(f"""
        daemon off; user root; pid {folder}/pid; error_log {folder}/error.log;
        events {{ }}
        http {{
            {temporary}
            log_format ranges "$status $http_range"; access_log {folder}/access.log ranges;
            server {{
                listen 127.0.0.1:{port};
                location /ranges/ {{ alias {place.files}/; }}
                location /whole/ {{ alias {place.files}/; max_ranges 0; }}
            }}
        }}""")
    with server([program, "-c", f"{folder}/nginx.conf"], port, folder / "log"):
        yield brings(place, f"http://127.0.0.1:{port}/ranges", "nginx-ranges")
        answers = (folder / "access.log").read_text().split("\n")
        partial = sum(answer.startswith("206 bytes=") for answer in answers)
        yield "nginx-ranges", partial >= 8, f"it came in {partial} ranges"
        yield brings(place, f"http://127.0.0.1:{port}/whole", "nginx-whole")


def python_servers(place: Place) -> Iterator[Proof]:
    """Servers without ranges, and without a length."""
    port = free_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1", "--directory", str(place.files)]
    with server(command, port, place.root / "http.server.log"):
        yield brings(place, f"http://127.0.0.1:{port}", "http.server")
    if importlib.util.find_spec("uvicorn") is None:
        return print("skipped uvicorn: not installed", flush=True)
    (place.root / "chunked.py").write_text(CHUNKED_APP)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "chunked:app", "--port", str(port)]
    with server(command, port, place.root / "uvicorn.log", FILES=str(place.files)):
        yield brings(place, f"http://127.0.0.1:{port}", "uvicorn")


def olah(place: Place, hub: str) -> Iterator[Proof]:
    """A mirror of the hub."""
    program, port, folder = tool("olah-cli"), free_port(), place.root / "olah"
    if program is None:
        return print("skipped olah: not installed", flush=True)
    folder.mkdir()
    upstream, mirror = hub.removeprefix("http://"), f"127.0.0.1:{port}"
    command = [program, "--host", "127.0.0.1", "--port", str(port), "--hf-scheme", "http",
               "--hf-netloc", upstream, "--hf-lfs-netloc", upstream,
               "--mirror-netloc", mirror, "--mirror-lfs-netloc", mirror]  # fmt: skip
    with server(command, port, folder / "log"):
        for name, sentence in (("olah-cold", "an empty"), ("olah-warm", "a full")):
            run = place.fetch(NAME, "--endpoint", f"http://{mirror}", "--timeout", "30", "-o", name)
            is_whole = run.returncode == 0 and place.is_whole(place.root / name)
            yield name, is_whole, f"the same bytes from {sentence} mirror {'' if is_whole else run.stderr}"


def blobs(home: Path) -> dict[str, tuple[int, int]]:
    """Which files the cache's blobs are: they change when a blob is fetched again."""
    found = (home / "hub/models--bench--name/blobs").iterdir()
    return {path.name: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}


def hub_cache(place: Place, hub: str) -> Iterator[Proof]:
    """The cache of the hub's own tools, written by them and by fetch."""
    hf = tool("hf")
    if hf is None or importlib.util.find_spec("huggingface_hub") is None:
        return print("skipped huggingface_hub: not installed", flush=True)
    theirs, ours = place.root / "theirs", place.root / "ours"

    download = place.run(hf, "download", NAME, HF_HOME=str(theirs), HF_ENDPOINT=hub)
    yield "hf", download.returncode == 0, f"hf downloads from the test hub {download.stderr if download.returncode else ''}"
    before = blobs(theirs)
    run = place.fetch(NAME, "--cache", "--endpoint", hub, HF_HOME=str(theirs))
    snapshot = Path(run.stdout.strip().split("\n")[-1])
    yield "hf", run.returncode == 0 and place.is_whole(snapshot), f"fetch names the files that hf downloaded {run.stderr}"
    yield "hf", blobs(theirs) == before, "and fetches none of them again"
    checked = place.fetch("--verify", str(snapshot))
    yield "hf", checked.returncode == 0, "fetch --verify finds all of them right"

    run = place.fetch(NAME, "--cache", "--endpoint", hub, HF_HOME=str(ours))
    yield "fetch", run.returncode == 0, f"fetch --cache writes a cache {run.stderr if run.returncode else ''}"
    before = blobs(ours)
    offline = f"from huggingface_hub import snapshot_download as s; print(s({NAME!r}, local_files_only=True))"
    found = place.run(sys.executable, "-c", offline, HF_HOME=str(ours), HF_HUB_OFFLINE="1")
    directory = Path(found.stdout.strip() or "nowhere")
    is_found = place.is_whole(directory) and directory.samefile(run.stdout.strip().split("\n")[-1])
    yield "fetch", is_found, f"snapshot_download finds it without the network {'' if is_found else found.stderr}"
    again = place.run(hf, "download", NAME, HF_HOME=str(ours), HF_ENDPOINT=hub)
    is_same = again.returncode == 0 and blobs(ours) == before
    yield "fetch", is_same, f"hf download fetches none of it again {'' if is_same else again.stderr}"
    scan = "from huggingface_hub import scan_cache_dir as s; c = s(); print(len(c.repos), len(c.warnings))"
    scanned = place.run(sys.executable, "-c", scan, HF_HOME=str(ours))
    is_clean = scanned.stdout.split() == ["1", "0"]
    yield "fetch", is_clean, f"scan_cache_dir sees one repository and nothing odd {'' if is_clean else scanned}"


def hub_proofs(place: Place, binaries: Path) -> Iterator[Proof]:
    """What needs the test hub."""
    program = binaries / "examples/hub"
    if not program.exists():
        return print("skipped olah and huggingface_hub: the test hub is not built", flush=True)
    with subprocess.Popen([program, place.files], stdout=subprocess.PIPE, text=True) as process:
        try:
            hub = process.stdout.readline().strip() if process.stdout else ""
            yield from olah(place, hub)
            yield from hub_cache(place, hub)
        finally:
            process.kill()


def main() -> None:
    """Every proof, one line each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default = Path(__file__).resolve().parent.parent / "target/release"
    parser.add_argument("--bin", type=Path, default=default, help="where fetch is")
    binaries = parser.parse_args().bin.resolve()
    if not (binaries / "fetch").exists():
        sys.exit(f"proofs-fetch: no fetch in {binaries}\nhint: cargo build --release")
    failed = 0
    with tempfile.TemporaryDirectory(prefix="proofs-fetch-") as scratch:
        place = Place(Path(scratch), binaries)
        for group in (nginx(place), python_servers(place), hub_proofs(place, binaries)):
            for name, holds, sentence in group:
                print(f"{'proved' if holds else 'FAILED'}  {name}  {sentence.strip()}", flush=True)
                failed += not holds
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
