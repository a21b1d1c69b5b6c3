#!/usr/bin/env python3
"""Packs the program qlora into a wheel, with a launcher for each tool, man pages and completions.

    wheel.py QLORA -o DIRECTORY [--glibc 2.28]

The wheel has no Python code: pip puts its scripts on the PATH and its data below share/. Its platform tag names
the oldest glibc that the program starts with, read from the program itself; --glibc fails where that is newer.
The same program gives the same bytes. Prints the wheel's path.
"""

import argparse
import base64
import hashlib
import platform
import re
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# What PEP 600 takes for granted on every Linux, of what the program needs.
SYSTEM_LIBRARIES = {
    "ld-linux-x86-64.so.2", "libc.so.6", "libdl.so.2", "libgcc_s.so.1", "libm.so.6", "libpthread.so.0", "librt.so.1",
}
# The oldest glibc that a manylinux tag of today's pip is made for.
OLDEST_GLIBC = (2, 17)
METADATA = """\
Metadata-Version: 2.4
Name: qlora-tools
Version: {version}
Summary: Fine-tune an open-weight chat model on your own data, on one GPU or on a CPU
License-Expression: MIT OR Apache-2.0
License-File: LICENSE-MIT
License-File: LICENSE-APACHE
Requires-Python: >=3.9
Provides-Extra: cuda
Requires-Dist: nvidia-cuda-nvrtc<14,>=13; extra == "cuda"
Requires-Dist: nvidia-cublas<14,>=13; extra == "cuda"
Requires-Dist: nvidia-nccl-cu13; extra == "cuda"
Description-Content-Type: text/markdown

{readme}"""
WHEEL = """\
Wheel-Version: 1.0
Generator: qlora-tools scripts/wheel.py
Root-Is-Purelib: false
Tag: {tag}
"""


def output(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def needed_glibc(program):
    """The newest version of glibc that the program has a symbol of."""
    header = output("objdump", "-p", program)
    foreign = set(re.findall(r"NEEDED\s+(\S+)", header)) - SYSTEM_LIBRARIES
    if foreign:
        sys.exit(f"wheel: {program} needs {', '.join(sorted(foreign))}, which not every Linux has")
    versions = re.findall(r"\bGLIBC_(\S+)", header)
    if not versions or not all(re.fullmatch(r"[\d.]+", version) for version in versions):
        sys.exit(f"wheel: {program} needs a glibc of an unknown kind: {', '.join(sorted(set(versions)))}")
    return max(OLDEST_GLIBC, *(tuple(map(int, version.split(".")))[:2] for version in versions))


def contents(program, version, tag):
    """Yields the name, the bytes and the permissions of every file but RECORD."""
    data, info = f"qlora_tools-{version}.data", f"qlora_tools-{version}.dist-info"
    yield f"{data}/scripts/qlora", program.read_bytes(), 0o755
    with tempfile.TemporaryDirectory() as directory:
        share = Path(directory) / "share"
        output(program, "documents", "--quiet", "--output", share)
        tools = {path.name for path in (share / "bash-completion/completions").iterdir()} - {"qlora"}
        for tool in sorted(tools):
            yield f"{data}/scripts/{tool}", (ROOT / "scripts/launcher").read_bytes(), 0o755
        for path in sorted(path for path in share.rglob("*") if path.is_file()):
            yield f"{data}/data/{path.relative_to(directory)}", path.read_bytes(), 0o644
    for licence in ["LICENSE-APACHE", "LICENSE-MIT"]:
        yield f"{info}/licenses/{licence}", (ROOT / licence).read_bytes(), 0o644
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    yield f"{info}/METADATA", METADATA.format(version=version, readme=readme).encode(), 0o644
    yield f"{info}/WHEEL", WHEEL.format(tag=tag).encode(), 0o644


def write(wheel, files, record_name):
    """Writes a zip file of `files` and of the record of their hashes, all of them of the same day."""
    record = []
    with zipfile.ZipFile(wheel, "w") as archive:
        def add(name, content, mode):
            entry = zipfile.ZipInfo(name)
            entry.external_attr = (0o100000 | mode) << 16
            archive.writestr(entry, content, zipfile.ZIP_DEFLATED, 9)

        for name, content, mode in files:
            add(name, content, mode)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")
            record.append(f"{name},sha256={digest},{len(content)}\n")
        add(record_name, "".join([*record, f"{record_name},,\n"]).encode(), 0o644)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("program", type=Path, metavar="QLORA", help="the program qlora")
    parser.add_argument("-o", "--output", type=Path, required=True, help="directory of the wheel")
    parser.add_argument("--glibc", help="the newest glibc that the program may need")
    arguments = parser.parse_args()
    program = arguments.program.resolve()
    major, minor = needed_glibc(program)
    if arguments.glibc and (major, minor) > tuple(map(int, arguments.glibc.split("."))):
        sys.exit(f"wheel: {program} needs glibc {major}.{minor}, more than {arguments.glibc}")
    version = output(program, "--version").split()[-1]
    tag = f"py3-none-manylinux_{major}_{minor}_{platform.machine()}"
    arguments.output.mkdir(parents=True, exist_ok=True)
    wheel = arguments.output / f"qlora_tools-{version}-{tag}.whl"
    write(wheel, contents(program, version, tag), f"qlora_tools-{version}.dist-info/RECORD")
    print(wheel)


if __name__ == "__main__":
    main()
