#!/usr/bin/env python3
"""Checks every dependency of every workspace against deny.toml, from `cargo metadata` alone: its licence and its source.

Works without a network once the crates are downloaded. Advisories are not checked: their database is not on crates.io.
"""

import json
import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
# All that the core is built of: a crate more is a decision, not an accident.
CORE = {
    "vgpu-perception", "byteorder", "hash32", "heapless", "stable_deref_trait", "static_assertions", "zerocopy",
    "zerocopy-derive",
}


def allowed(expression, allow):
    """Whether an SPDX expression (or the older `A/B`) can be met with the licences of `allow`."""
    tokens = re.findall(r"\(|\)|[^\s()]+", expression.replace("/", " OR "))

    def either(at):
        good, at = both(at)
        while at < len(tokens) and tokens[at] == "OR":
            other, at = both(at + 1)
            good = good or other
        return good, at

    def both(at):
        good, at = one(at)
        while at < len(tokens) and tokens[at] == "AND":
            other, at = one(at + 1)
            good = good and other
        return good, at

    def one(at):
        if tokens[at] == "(":
            good, at = either(at + 1)
            return good, at + 1
        name, at = tokens[at], at + 1
        if at < len(tokens) and tokens[at] == "WITH":
            name, at = f"{name} WITH {tokens[at + 1]}", at + 2
        return name in allow, at

    return either(0)[0]


def packages(manifest):
    command = ["cargo", "metadata", "--format-version", "1", "--locked", "--all-features", "--manifest-path", manifest]
    return json.loads(subprocess.run(command, capture_output=True, check=True).stdout)


def linked_with(metadata, name):
    """The names of what `name` is built of: procedural macros by name, but not what they run on; tests left out."""
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    crates = {package["id"]: package for package in metadata["packages"]}
    todo = [id for id, crate in crates.items() if crate["name"] == name]
    seen = set()
    while todo:
        id = todo.pop()
        macro = any("proc-macro" in target["kind"] for target in crates[id]["targets"])
        if id not in seen and not macro:
            todo += [dep["pkg"] for dep in nodes[id]["deps"] if any(kind["kind"] is None for kind in dep["dep_kinds"])]
        seen.add(id)
    return {crates[id]["name"] for id in seen}


def main():
    rules = tomllib.loads((ROOT / "deny.toml").read_text())
    allow = set(rules["licenses"]["allow"])
    exceptions = {entry["crate"]: set(entry["allow"]) for entry in rules["licenses"].get("exceptions", [])}
    sources = {f"registry+{url}" for url in rules["sources"]["allow-registry"]}
    sample = {"MIT", "ISC", "Zlib", "Apache-2.0"}
    for bad in ("GPL-3.0", "MIT AND GPL-3.0", "(MIT OR ISC) AND SSPL-1.0", "Apache-2.0 WITH Nothing"):
        assert not allowed(bad, sample), bad
    for good in ("MIT/Apache-2.0", "GPL-3.0 OR MIT", "(MIT OR GPL-2.0) AND Zlib"):
        assert allowed(good, sample), good

    faults = []
    seen = set()
    for manifest in sorted(ROOT.glob("*/Cargo.toml")) + sorted(ROOT.glob("*/*/Cargo.toml")) + [ROOT / "Cargo.toml"]:
        if manifest.parent != ROOT and "[workspace]" not in manifest.read_text():
            continue
        metadata = packages(manifest)
        for package in metadata["packages"]:
            name = f"{package['name']} {package['version']}"
            if package["source"] is None:
                if not pathlib.Path(package["manifest_path"]).is_relative_to(ROOT):
                    faults.append(f"{name}: comes from a path outside of the project")
                continue
            seen.add(name)
            if package["source"] not in sources:
                faults.append(f"{name}: comes from {package['source']}, which deny.toml does not allow")
            if not allowed(package["license"] or "none", allow | exceptions.get(package["name"], set())):
                faults.append(f"{name}: licence {package['license']!r} is not in deny.toml")
        if manifest.parent == ROOT:
            extra = linked_with(metadata, "vgpu-perception") - CORE
            if extra:
                faults.append(f"the core is built of {sorted(extra)} too: see CORE in .ci/audit.py")
    for fault in faults:
        print(fault)
    print(f"figure: {len(seen)} crates of others, {len(faults)} faults")
    sys.exit(bool(faults))


if __name__ == "__main__":
    main()
