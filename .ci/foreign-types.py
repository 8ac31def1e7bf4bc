#!/usr/bin/env python3
"""Whose types stand in the public interfaces: foreign-types.py FOLDER "PACKAGE..." reads FOLDER/PACKAGE.txt.

A foreign crate in a signature makes its next major version ours. Each that is allowed says here why.
"""

import pathlib
import re
import sys

ANYWHERE = {"core", "alloc", "std"}
ALLOWED = {
    # The adapters are for these crates; their users have them already.
    "vgpu-perception-vm-memory": {"vm_memory"},
    "vgpu-perception-memflow": {"memflow"},
    # The wire structs are filled from bytes without a cast, and typed reads are bounded by what zerocopy proves of a type.
    "vgpu-perception": {"zerocopy"},
    "vgpu-perception-mapped": {"zerocopy"},
    # The parser of an answer, public for its fuzz target.
    "vgpu-perception-host": {"serde_json"},
    # A connection is any stream of the runtime that the server is built on.
    "vgpu-perception-serve": {"tokio"},
}
# A path begins where no path and no name goes before it.
PATH = re.compile(r"(?<![\w:>])([a-z_][a-z0-9_]*)::")


def foreign(package, text, ours):
    """The crates in a list that are neither ours nor allowed, each with the first item that shows it."""
    seen = {}
    for item in text.splitlines():
        for name in PATH.findall(item):
            if name not in ANYWHERE | ours | ALLOWED.get(package, set()):
                seen.setdefault(name, item)
    return seen


def main():
    folder, packages = pathlib.Path(sys.argv[1]), sys.argv[2].split()
    ours = {package.replace("-", "_") for package in packages}
    faults = 0
    for package in packages:
        for name, item in foreign(package, (folder / f"{package}.txt").read_text(), ours).items():
            faults += 1
            print(f"{package}: types of {name} are public, first in: {item}")
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
