#!/usr/bin/env python3
"""What a registry shows of each package: its metadata, its README, the files in it.

    crates.py check     compares, and says what is wrong
    crates.py update    writes each package's README anew from the head of its lib.rs (or main.rs)
    crates.py release   refuses where something is still a placeholder for the owner
    crates.py names     prints the packages that are meant for crates.io
    crates.py libraries prints those of them that are libraries

A README of a package is the documentation of its crate, as a registry can show it: links into the code are names there.
"""

import json
import pathlib
import re
import subprocess
import sys
import textwrap

ROOT = pathlib.Path(__file__).resolve().parent.parent
# A README or a license is small; a corpus or a picture in a package is a mistake.
LARGEST = 1 << 20


def cargo(*words):
    """What cargo prints."""
    return subprocess.run(["cargo", *words], cwd=ROOT, capture_output=True, check=True, text=True).stdout


def packages():
    """The workspace's packages, those for crates.io first."""
    metadata = json.loads(cargo("metadata", "--format-version", "1", "--no-deps", "--locked"))
    return sorted(metadata["packages"], key=lambda package: (package["publish"] is not None, package["name"]))


def published(package):
    """Whether it is meant for crates.io: cargo tells "anywhere" as null, "nowhere" as an empty list."""
    return package["publish"] is None


def folder(package):
    """Where a package lies."""
    return pathlib.Path(package["manifest_path"]).parent


def library(package):
    """Whether it is one that other crates use."""
    return any("lib" in target["kind"] for target in package["targets"])


def crate_docs(package):
    """The text of the `//!` lines that open the crate."""
    source = folder(package) / "src" / ("lib.rs" if library(package) else "main.rs")
    lines = []
    for line in source.read_text().splitlines():
        if not line.startswith("//!"):
            if lines:
                break
            continue
        lines.append(line[4:])
    return lines


def readme(package):
    """What README.md has to say."""
    code = False
    text = []
    for line in crate_docs(package):
        if line.startswith("```"):
            language = line[3:].split(",")[0]
            rust = language in ("", "no_run", "ignore", "should_panic", "compile_fail")
            line = "```rust" if rust and not code else line
            code = not code
        elif code and (line == "#" or line.startswith("# ")):
            continue
        elif not code:
            # Links that only rustdoc follows become names; headings go below the title.
            line = re.sub(r"\[(`[^`]+`)\](\((?!https?:)[^)]*\))?", r"\1", line)
            line = "#" + line if line.startswith("#") else line
        text.append(line.rstrip())
    more = f"Documentation: <https://docs.rs/{package['name']}>. " if library(package) else ""
    end = ["", f"{more}Rust {package['rust_version']} or newer.", "", "License: MIT OR Apache-2.0.", ""]
    return "\n".join([f"# {package['name']}", "", *wrapped(text), *end])


def wrapped(lines):
    """The lines of a document with its paragraphs and list items at most 100 columns wide."""
    out, paragraph, lead, code = [], [], "", False

    def close():
        if paragraph:
            text = " ".join(paragraph)
            out.extend(textwrap.wrap(text, 100, subsequent_indent=lead, break_long_words=False, break_on_hyphens=False))
            paragraph.clear()

    for line in lines:
        fence = line.lstrip().startswith("```")
        item = re.match(r"\s*([-*+]|\d+[.)]) ", line)
        if code or fence or not line.strip() or line.lstrip().startswith(("|", "#", ">")):
            close()
            out.append(line)
            code = code != fence
            continue
        if item or not paragraph:
            close()
            lead = " " * item.end() if item else ""
            paragraph.append(line)
        else:
            paragraph.append(line.strip())
    close()
    return out


def faults_of(package):
    """What is wrong with a package for crates.io."""
    name = package["name"]
    for field in ("description", "license", "repository", "keywords", "categories", "rust_version", "readme", "authors"):
        if not package[field]:
            yield f"{name}: no {field} in Cargo.toml"
    if len(package["keywords"]) > 5 or any(len(word) > 20 for word in package["keywords"]):
        yield f"{name}: at most 5 keywords of at most 20 letters: {package['keywords']}"
    if library(package) and package["features"] and "docs" not in (package["metadata"] or {}):
        yield f"{name}: it has features, and no [package.metadata.docs.rs] that says which of them docs.rs shows"
    for dependency in package["dependencies"]:
        if dependency["req"] == "*" and dependency["kind"] != "dev":
            yield f"{name}: the dependency on {dependency['name']} has no version"
    file = folder(package) / "README.md"
    if not file.exists() or file.read_text() != readme(package):
        yield f"{file.relative_to(ROOT)} is not what the crate's documentation says: .ci/crates update"
    files = cargo("package", "--list", "--allow-dirty", "--locked", "-p", name).split()
    for needed in ("LICENSE-APACHE", "LICENSE-MIT", "README.md"):
        if needed not in files:
            yield f"{name}: {needed} is not in the package"
    sizes = [(folder(package) / file).stat().st_size for file in files if (folder(package) / file).exists()]
    if sum(sizes) > LARGEST:
        yield f"{name}: {sum(sizes)} bytes in the package; something that is no source is in it"
    print(f"figure: {name}: {len(files)} files, {sum(sizes) >> 10} KiB, rust-version {package['rust_version']}")


def check():
    """Everything but the build."""
    faults = []
    everything = packages()
    version = everything[0]["version"]
    for package in everything:
        if package["version"] != version:
            faults.append(f"{package['name']} is {package['version']}, others are {version}")
        if published(package):
            faults += faults_of(package)
        else:
            print(f"not for crates.io: {package['name']}")
    changes = (ROOT / "CHANGELOG.md").read_text()
    if f"## [{version}]" not in changes and "## [Unreleased]" not in changes:
        faults.append(f"CHANGELOG.md has no section for {version}")
    return faults


def release():
    """Placeholders that are left."""
    words = ["git", "grep", "-n", "OWNER@\\|/OWNER/\\|OWNER:", "--", ":!.ci/crates.py"]
    found = subprocess.run(words, cwd=ROOT, capture_output=True, text=True)
    return [f"a placeholder for the owner: {line}" for line in found.stdout.splitlines()]


def main():
    command = sys.argv[1] if len(sys.argv) > 1 else "check"
    if command == "names":
        print("\n".join(package["name"] for package in packages() if published(package)))
        return
    if command == "libraries":
        print("\n".join(package["name"] for package in packages() if published(package) and library(package)))
        return
    if command == "update":
        for package in filter(published, packages()):
            (folder(package) / "README.md").write_text(readme(package))
        return
    faults = {"check": check, "release": release}[command]()
    if faults:
        print("\n".join(faults))
        sys.exit(f"{len(faults)} faults")


if __name__ == "__main__":
    main()
