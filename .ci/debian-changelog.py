#!/usr/bin/env python3
"""Prints CHANGELOG.md's newest version as a Debian changelog for the package that is named."""

import pathlib
import re
import subprocess
import sys
import tomllib

ROOT = pathlib.Path(__file__).resolve().parent.parent


def section(text, version):
    """The points of a version; of what is unreleased where that version has no section yet."""
    parts = re.split(r"^## \[([^\]]+)\].*$", text, flags=re.M)
    by_version = dict(zip(parts[1::2], parts[2::2]))
    body = by_version.get(version, by_version.get("Unreleased", ""))
    # One point may be several lines in Markdown.
    points = re.split(r"^- ", body, flags=re.M)[1:]
    return [re.sub(r"\s+", " ", re.split(r"^#", point, flags=re.M)[0]).strip() for point in points]


def wrapped(point):
    """A point as Debian writes it: a star, lines of at most 80 columns."""
    lines, line = [], "  *"
    for word in point.replace("`", "").split(" "):
        if len(line) + 1 + len(word) > 78:
            lines.append(line)
            line = "   "
        line += " " + word
    return "\n".join([*lines, line])


def main():
    package = tomllib.loads((ROOT / "Cargo.toml").read_text())["workspace"]["package"]
    date = subprocess.run(
        ["git", "log", "-1", "--format=%cD"], cwd=ROOT, capture_output=True, check=True, text=True
    ).stdout.strip()
    points = section((ROOT / "CHANGELOG.md").read_text(), package["version"])
    print(f"{sys.argv[1]} ({package['version']}-1) unstable; urgency=medium\n")
    print("\n".join(map(wrapped, points or ["New version."])))
    print(f"\n -- {package['authors'][0]}  {date}")


if __name__ == "__main__":
    main()
