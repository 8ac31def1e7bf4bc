#!/usr/bin/env python3
"""Takes each check out of the reader's source, one at a time, and requires that a test fails.

Works on a copy of the tree. A mutation whose text is not found is an error of this script: it has to follow the source.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
LOOM = ["-p", "vgpu-perception-loom", "--test", "models"]
SNAPSHOTS = ["-p", "vgpu-perception", "--test", "snapshots"]

SEQLOCK = "core/src/seqlock.rs"
REGION = "core/src/region/mod.rs"
FRAME = "core/src/region/frame.rs"
LIVENESS = "core/src/region/liveness.rs"

# Name, test that has to fail, and the replacements in one or more files.
MUTATIONS = [
    ("second look at the number removed", LOOM, [
        (SEQLOCK, "Ok(self.mem.load_u32(self.at)? == self.seq)", "Ok(self.mem.load_u32(self.at).is_ok())"),
    ]),
    ("second look asks only whether the number is even", LOOM, [
        (SEQLOCK, "Ok(self.mem.load_u32(self.at)? == self.seq)", "Ok(self.mem.load_u32(self.at)? & 1 == 0)"),
    ]),
    ("odd numbers accepted", LOOM, [
        (SEQLOCK, "Ok(if seq & 1 == 0 {", "Ok(if seq & 1 == 0 || seq & 1 == 1 {"),
    ]),
    ("fence after the first look removed", LOOM, [
        (SEQLOCK, "let seq = mem.load_u32(at)?;\n        mem.fence_acquire();", "let seq = mem.load_u32(at)?;"),
    ]),
    ("fence before the second look removed", LOOM, [
        (SEQLOCK, "self.mem.fence_acquire();\n        Ok(", "Ok("),
    ]),
    ("fence before the entries are read again removed", LOOM, [
        (REGION, "mem.fence_acquire();\n        let holds", "let holds"),
    ]),
    ("entries not read again", LOOM, [
        (REGION, "page.trail.still_holds(mem).unwrap_or(false)", "page.trail.still_holds(mem).is_ok()"),
    ]),
    ("second look at the epoch removed", LOOM, [
        (LIVENESS, "Ok(if after == run_epoch {", "Ok(if after == run_epoch || after != run_epoch {"),
    ]),
    ("fence after the heartbeat removed", LOOM, [
        (LIVENESS, "HEARTBEAT))?;\n    mem.fence_acquire();", "HEARTBEAT))?;"),
    ]),
    ("frame's pages not translated again", SNAPSHOTS, [
        (FRAME, "if again != Ok(len) || scratch.runs != scratch.check {", "if again.is_err() {"),
    ]),
    ("older frames taken", SNAPSHOTS, [
        (FRAME, "if frame_id < last {", "if frame_id < last && last == 0 {"),
    ]),
    ("descriptor not checked", SNAPSHOTS, [
        (FRAME,
         "let needed = check_desc(desc).map_err(|fault| Skip::BadDescriptor { slot, fault })?;",
         "let needed = check_desc(desc).unwrap_or_else(|_| u64::from(slot));"),
    ]),
    ("tries start from the same slot, not from latest", SNAPSHOTS, [
        (FRAME, "let sample = self.attempt(", "let pinned = core::cell::Cell::new(None::<u32>);\n        let sample = self.attempt("),
        (FRAME, "region.look_at_latest(mem, page, capacity)", "region.look_at_latest(mem, page, capacity, &pinned)"),
        (FRAME, "        capacity: u64,\n    ) -> Result<Try<Seen", "        capacity: u64,\n        pinned: &core::cell::Cell<Option<u32>>,\n    ) -> Result<Try<Seen"),
        (FRAME, "let slot = mem.load_u32(page.wrapping_add(producer::LATEST))?;",
         "let slot = mem.load_u32(page.wrapping_add(producer::LATEST))?;\n        let slot = pinned.get().unwrap_or(slot);\n        pinned.set(Some(slot));"),
    ]),
]


def run(tree, test):
    command = ["cargo", "test", "--quiet", "--offline", "--locked", *test]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300, env={
        **os.environ,
        "CARGO_TARGET_DIR": str(ROOT / "target" / "mutants"),
        "RUSTFLAGS": "-A warnings",
        # The model checker's stacks are too small to walk: a backtrace from one never ends.
        "RUST_BACKTRACE": "0",
    })


def main():
    begun = time.monotonic()
    survivors = []
    with tempfile.TemporaryDirectory() as directory:
        tree = pathlib.Path(directory) / "tree"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in files.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tree / name)
        for test in (LOOM, SNAPSHOTS):
            clean = run(tree, test)
            if clean.returncode != 0:
                sys.exit(f"{' '.join(test)} fails before any mutation:\n{clean.stdout[-3000:]}{clean.stderr[-3000:]}")
        for name, test, replacements in MUTATIONS:
            originals = {}
            for file, old, new in replacements:
                path = tree / file
                text = path.read_text()
                originals.setdefault(path, text)
                if text.count(old) != 1:
                    sys.exit(f"mutation '{name}': {file} has its text {text.count(old)} times, not once:\n{old}")
                path.write_text(text.replace(old, new))
            result = run(tree, test)
            output = result.stdout + result.stderr
            if "could not compile" in output:
                sys.exit(f"mutation '{name}' does not compile:\n{output[-3000:]}")
            caught = result.returncode != 0
            by = [line.split()[1] for line in output.splitlines() if line.endswith("... FAILED")]
            by = by or [line.strip() for line in output.splitlines() if line.startswith("    ") and " " not in line.strip()]
            print(f"{'caught' if caught else 'SURVIVED'}: source: {name} by {', '.join(sorted(set(by))) or test[-1]}", flush=True)
            if not caught:
                survivors.append(name)
            for path, text in originals.items():
                path.write_text(text)
    print(f"figure: {len(MUTATIONS)} source mutations in {time.monotonic() - begun:.0f} s")
    if survivors:
        sys.exit(f"not caught: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
