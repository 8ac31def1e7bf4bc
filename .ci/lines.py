#!/usr/bin/env python3
"""Checks what no formatter does: the length of lines (comments too), blanks at the end, the newline at the end of a file."""

import pathlib
import subprocess
import sys

LIMITS = {".rs": 120, ".md": 100, ".py": 120, "": 130, ".yml": 120}
# Written before the limit; each is wrapped when it is next rewritten, and leaves this list then.
UNWRAPPED = {
    "ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "README.md", "SECURITY.md", "docs/embedding.md", "docs/fuzzing.md",
    "docs/performance.md", "docs/real-guest.md", "docs/verification.md", "docs/windows.md",
}
SKIP = ("fuzz/corpus/", "LICENSE", "core/api/", "Cargo.lock")


def lines_of(name):
    """The text lines of a tracked file, or None where it is bytes."""
    try:
        return pathlib.Path(name).read_bytes().decode()
    except (UnicodeDecodeError, FileNotFoundError, IsADirectoryError):
        return None


def long_lines(name, text):
    """The numbers of the lines that are too long. A table row, a link and code in Markdown cannot be wrapped."""
    kind = pathlib.Path(name).suffix
    if kind == "" and not text.startswith("#!"):
        return
    limit = LIMITS.get(kind)
    # The packages' READMEs are written by .ci/crates.py, out of documentation that is wrapped as Rust is.
    generated = name.endswith("/README.md") and (pathlib.Path(name).parent / "Cargo.toml").exists()
    if limit is None or name in UNWRAPPED or generated:
        return
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if kind == ".md" and line.lstrip().startswith("```"):
            code = not code
        free = kind == ".md" and (code or line.lstrip().startswith("|") or "](" in line or "://" in line)
        if len(line) > limit and not free and "http" not in line:
            yield f"{name}:{number}: {len(line)} columns; {limit} are allowed"


def main():
    names = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, text=True).stdout.split("\0")
    faults = []
    for name in filter(None, names):
        if name.startswith(SKIP) or (text := lines_of(name)) is None:
            continue
        faults += long_lines(name, text)
        if text and not text.endswith("\n"):
            faults.append(f"{name}: no newline at the end")
        faults += [
            f"{name}:{number}: blanks at the end" for number, line in enumerate(text.split("\n"), 1)
            if line.endswith((" ", "\t")) and not name.endswith(".md")
        ]
    print("\n".join(faults[:100]))
    if faults:
        sys.exit(f"{len(faults)} lines to mend")
    print(f"figure: lines: {len(names)} files are within their limits")


if __name__ == "__main__":
    main()
