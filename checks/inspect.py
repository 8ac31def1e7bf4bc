#!/usr/bin/env python3
"""Looks into the linked core: forbidden symbols, floating point, code size, and stack depth of each entry point.

Stack depth is read off the disassembly: what each function takes (pushes and `sub rsp`), added up along its deepest chain of
direct calls. Calls through the embedder's callback end a chain. Recursion is an error.

    inspect.py LIBRARY TRACKED [--update]
"""

import re
import subprocess
import sys

FORBIDDEN = re.compile(r"panic|unwind|__rust_alloc|__rust_dealloc|__rust_realloc|\bmalloc\b|\bcalloc\b|\bfree\b|core3fmt.*(float|pad)")
FLOAT = re.compile(
    r"\b(?:add|sub|mul|div|sqrt|ucomi|comi|cvt\w*?2?)(?:s|p)(?:s|d)\b"
    r"|\bcvt(?:si2s|tss2|tsd2|ss2|sd2)\w*\b|\bf(?:ld|st|add|mul|div)\w*\s"
)
# A change within this is noise of the optimiser; more has to be looked at, and tracked with --update.
TOLERANCE = 0.25
SLACK = 256


def functions(library):
    text = subprocess.run(["objdump", "-d", "--no-show-raw-insn", library], capture_output=True, text=True, check=True).stdout
    name, body = None, []
    for line in text.splitlines():
        start = re.match(r"^[0-9a-f]+ <(.+)>:$", line)
        if start:
            if name:
                yield name, body
            name, body = start[1], []
        elif name and "\t" in line:
            body.append(line.split("\t", 1)[1])
    if name:
        yield name, body


def frame(body):
    pushes = sum(1 for line in body if re.match(r"push\b", line))
    # The largest adjustment: a function that is split by the optimiser may have several.
    subs = [int(found[1], 16) for line in body if (found := re.match(r"sub\s+\$0x([0-9a-f]+),%rsp", line))]
    return 8 * pushes + max(subs, default=0)


def main():
    library, tracked = sys.argv[1:3]
    names = subprocess.run(["nm", "--defined-only", library], capture_output=True, text=True, check=True).stdout
    names += subprocess.run(["nm", "-D", library], capture_output=True, text=True, check=True).stdout
    bad = sorted({line.split()[-1] for line in names.splitlines() if line and FORBIDDEN.search(line.split()[-1])})
    if bad:
        sys.exit("forbidden symbols in the linked core: " + ", ".join(bad))
    bodies = dict(functions(library))
    floats = [f"{name}: {line}" for name, body in bodies.items() for line in body if FLOAT.search(line)]
    if floats:
        sys.exit("floating point in the linked core: " + "; ".join(floats[:5]))
    calls = {
        name: {found[1] for line in body if (found := re.search(r"\b(?:call|jmp)\s+[0-9a-f]+ <([^+>]+)(?:@plt)?>", line))} - {name}
        for name, body in bodies.items()
    }

    def depth(name, chain=()):
        if name in chain:
            sys.exit(f"recursion in the linked core: {' -> '.join(chain + (name,))}")
        if name not in bodies:
            return 0
        below = [depth(callee, chain + (name,)) for callee in calls[name] if not callee.startswith("mem")]
        return frame(bodies[name]) + 8 + max(below, default=0)

    entries = {name: depth(name) for name in sorted(bodies) if name.startswith("check_")}
    size = int(subprocess.run(["size", library], capture_output=True, text=True, check=True).stdout.splitlines()[1].split()[0])
    lines = [f"text {size}"] + [f"stack {name} {bytes}" for name, bytes in entries.items()]
    print("\n".join(f"figure: {line} bytes" for line in lines))
    if "--update" in sys.argv:
        with open(tracked, "w") as file:
            file.write("\n".join(lines) + "\n")
        return
    known = dict(line.rsplit(" ", 1) for line in open(tracked).read().splitlines())
    grown = []
    for line in lines:
        name, now = line.rsplit(" ", 1)
        if name not in known:
            grown.append(f"{name} is new: {now}")
        elif int(now) > int(known[name]) * (1 + TOLERANCE) + SLACK:
            grown.append(f"{name}: {known[name]} -> {now}")
    if grown:
        sys.exit("the core grew; if that is meant, run .ci/check-panic --update: " + "; ".join(grown))


if __name__ == "__main__":
    main()
