#!/usr/bin/env python3
"""Puts the sources of the book together: book.py FOLDER.

Chapters are what docs/SUMMARY.md names. Documents of the root become chapters too. A link to anything else in the tree
becomes a link into the repository, whose address stands in Cargo.toml.
"""

import pathlib
import posixpath
import re
import shutil
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent
LINK = re.compile(r"(\]\()([^)#\s]+)(#[^)\s]*)?(\))")


def chapter_name(path):
    """The place in the book of a file of the tree."""
    return path.removeprefix("docs/") if path.startswith("docs/") else path


def rewritten(text, source, chapters, address, faults):
    """The text with links that lead to the same things from within the book."""

    def target(match):
        before, path, anchor, after = match.groups()
        if re.match(r"[a-z]+:", path):
            return match.group(0)
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        if not (ROOT / path).exists():
            faults.append(f"{source}: {path} does not exist")
        if path in chapters or path.endswith((".png", ".svg")):
            return f"{before}{chapter_name(path)}{anchor or ''}{after}"
        return f"{before}{address}/blob/HEAD/{path}{anchor or ''}{after}"

    code = False
    lines = []
    for line in text.split("\n"):
        if line.startswith("```"):
            code = not code
        lines.append(line if code else LINK.sub(target, line))
    return "\n".join(lines)


def main():
    out = pathlib.Path(sys.argv[1])
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    address = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]["repository"]
    summary = (ROOT / "docs/SUMMARY.md").read_text()
    named = [posixpath.normpath(posixpath.join("docs", match[1])) for match in LINK.findall(summary)]
    faults = [f"docs/SUMMARY.md names {path}, which does not exist" for path in named if not (ROOT / path).exists()]
    written = {f"docs/{file.name}" for file in (ROOT / "docs").glob("*.md")} - {"docs/SUMMARY.md"}
    faults += [f"{path} is no chapter: name it in docs/SUMMARY.md" for path in sorted(written - set(named))]
    chapters = set(named)
    for path in ["docs/SUMMARY.md", *named]:
        if (ROOT / path).exists():
            text = rewritten((ROOT / path).read_text(), path, chapters, address, faults)
            (out / chapter_name(path)).write_text(text)
    for picture in (ROOT / "docs").glob("*.png"):
        shutil.copy(picture, out)
    shutil.copy(ROOT / "book.toml", out)
    if faults:
        sys.exit("\n".join(faults))


if __name__ == "__main__":
    main()
