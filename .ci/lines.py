#!/usr/bin/env python3
"""The limits that no formatter keeps: comments of Rust at 120 columns, Markdown at 100, blanks and newlines at the end.

    lines.py                 checks every tracked file
    lines.py wrap FILE...    wraps the comments of Rust files, paragraph by paragraph
"""

import pathlib
import re
import subprocess
import sys

RUST = 120
LIMITS = {".rs": RUST, ".md": 100, ".py": 140, "": 140, ".yml": 140}
SKIP = ("fuzz/corpus/", "LICENSE", "checks/api/", "Cargo.lock")
COMMENT = re.compile(r"(\s*)(//[/!]?)( ?)(.*)$")
ITEM = re.compile(r"\s*([-*+]|\d+[.)]) ")


def text_of(name):
    """The text of a tracked file, or None where it is bytes, or a link to another."""
    path = pathlib.Path(name)
    if path.is_symlink() or not path.is_file():
        return None
    try:
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        return None


def cannot_be_wrapped(kind, line, code):
    """A table row, a link and code have to stay one line; Rust that is no comment is rustfmt's."""
    if "://" in line:
        return True
    if kind == ".md":
        return code or line.lstrip().startswith("|") or "](" in line
    if kind == ".rs":
        comment = COMMENT.match(line)
        return not comment or code or comment[4].lstrip().startswith("|")
    return False


def long_lines(name, text):
    """The lines that are too long."""
    kind = pathlib.Path(name).suffix
    limit = LIMITS.get(kind)
    if limit is None or (kind == "" and not text.startswith("#!")):
        return
    code = False
    for number, line in enumerate(text.splitlines(), 1):
        if re.match(r"\s*(//[/!] ?)?```", line):
            code = not code
        if len(line) > limit and not cannot_be_wrapped(kind, line, code):
            yield f"{name}:{number}: {len(line)} columns; {limit} are allowed"


def check():
    """Every tracked file."""
    names = subprocess.run(["git", "ls-files", "-z"], capture_output=True, check=True, text=True).stdout.split("\0")
    faults = []
    for name in filter(None, names):
        if name.startswith(SKIP) or (text := text_of(name)) is None:
            continue
        faults += long_lines(name, text)
        if text and not text.endswith("\n"):
            faults.append(f"{name}: no newline at the end")
        # Rust is rustfmt's, which leaves only those within a text.
        faults += [
            f"{name}:{number}: blanks at the end" for number, line in enumerate(text.split("\n"), 1)
            if line.endswith((" ", "\t")) and not name.endswith((".md", ".rs"))
        ]
    for fault in faults[:100]:
        print(fault)
    if faults:
        sys.exit(f"{len(faults)} lines to mend; comments of Rust: python3 .ci/lines.py wrap FILE...")
    print(f"figure: lines: {len(names)} files are within their limits")


def cut_of(body, room, least):
    """Where a body is cut: at the last blank that fits and stands in no code span; 0 where there is none."""
    cut = body.rfind(" ", 0, room + 1)
    while cut > least and body[:cut].count("`") % 2:
        cut = body.rfind(" ", 0, cut)
    return cut if cut > least else 0


def wrapped(text):
    """The text with long comments wrapped. What overflows joins the next line of the same paragraph."""
    lines, out, code, at = text.split("\n"), [], False, 0
    while at < len(lines):
        line = lines[at]
        comment = COMMENT.match(line)
        at += 1
        if not comment:
            code = False
            out.append(line)
            continue
        indent, slashes, _, body = comment.groups()
        if body.lstrip().startswith("```"):
            code = not code
        before = f"{indent}{slashes} "
        item = ITEM.match(body)
        lead = " " * (item.end() if item else len(body) - len(body.lstrip()))
        cut = cut_of(body, RUST - len(before), len(lead))
        if len(line) <= RUST or code or body.lstrip().startswith(("|", "```")) or not cut:
            out.append(line)
            continue
        out.append(before + body[:cut].rstrip())
        rest = lead + body[cut:].strip()
        following = COMMENT.match(lines[at]) if at < len(lines) else None
        if following and following[1] == indent and following[2] == slashes and continues(following[4], lead):
            lines[at] = f"{before}{rest} {following[4].strip()}"
        else:
            lines.insert(at, before + rest)
    return "\n".join(out)


def continues(body, lead):
    """Whether a line goes on with the paragraph of the one before, which is indented by `lead`."""
    opens = not body.strip() or ITEM.match(body) or body.lstrip().startswith(("|", "```", "#", ">"))
    return not opens and body.startswith(lead) and not body[len(lead):].startswith(" ")


def main():
    if sys.argv[1:2] == ["wrap"]:
        for name in sys.argv[2:]:
            path = pathlib.Path(name)
            text = path.read_text()
            if (new := wrapped(text)) != text:
                path.write_text(new)
        return
    check()


if __name__ == "__main__":
    main()
