#!/usr/bin/env python3
"""Takes each check out of the reader's source, one at a time, and requires that a test fails.

With words as arguments, only those mutations whose names have one of them. Works on a copy of the tree. A mutation whose
text is not found is an error of this script: it has to follow the source.
"""

import os
import pathlib
import re
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
LINES = "core/src/region/lines.rs"
LIVENESS = "core/src/region/liveness.rs"
TRAIL = "core/src/paging/trail.rs"
RECORD = "mapped-backend/src/plan/record.rs"
PRIMED = "mapped-backend/src/plan/primed.rs"
CONTEST = "mapped-backend/src/plan/contest.rs"
UNREAD = "mapped-backend/src/plan/unread.rs"

# Name, file of tests, the test of it that has to fail, and the replacements in one or more files.
MUTATIONS = [
    ("credit for trials taken in two steps", LOOM, "threads_do_not_spend_the_same_credit_for_trials", [
        (RECORD, "let before = self.credit.fetch_sub(all, Relaxed);",
         "let before = self.credit.load(Relaxed);\n        self.credit.store(before.wrapping_sub(all), Relaxed);"),
    ]),
    ("a contest ended in two steps", LOOM, "threads_complete_the_frames_of_one_contest", [
        (CONTEST, "let is_ours = self.state.compare_exchange(state.0, next, Relaxed, Relaxed).is_ok();",
         "self.state.store(next, Relaxed);\n        let is_ours = true;"),
    ]),
    ("a frame's bytes and its time taken in two steps", LOOM, "threads_complete_the_frames_of_one_contest", [
        (CONTEST, "let copied = self.frame.swap(0, Relaxed);",
         "let copied = self.frame.load(Relaxed) >> TIME << TIME | self.frame.swap(0, Relaxed) & ((1 << TIME) - 1);"),
    ]),
    ("a trial that was begun is taken in two steps", LOOM, "threads_take_in_samples_of_one_record", [
        (PRIMED, "slot.compare_exchange(waiting.0, next, Relaxed, Relaxed).is_ok()",
         "{\n                slot.store(next, Relaxed);\n                true\n            }"),
    ]),
    ("a trial to be read is taken in two steps", LOOM, "threads_read_each_trial_once", [
        (UNREAD, "if !fits || slot.compare_exchange(word, CLAIMED, Acquire, Relaxed).is_err() {",
         "slot.store(if fits { CLAIMED } else { word }, Relaxed);\n            if !fits {"),
    ]),
    ("a trial is seen before what was set aside for it", LOOM, "threads_read_each_trial_once", [
        (UNREAD, "slot.store(unread.word(), Release);", "slot.store(unread.word(), Relaxed);"),
    ]),
    ("second look at the number removed", LOOM, "the_cursor_moves_during_a_read", [
        (SEQLOCK, "Ok(self.mem.load_u32(self.at)? == self.seq)", "Ok(self.mem.load_u32(self.at).is_ok())"),
    ]),
    ("second look asks only whether the number is even", LOOM, "the_cursor_moves_during_a_read", [
        (SEQLOCK, "Ok(self.mem.load_u32(self.at)? == self.seq)", "Ok(self.mem.load_u32(self.at)? & 1 == 0)"),
    ]),
    ("odd numbers accepted", LOOM, "the_cursor_moves_during_a_read", [
        (SEQLOCK, "Ok(if seq & 1 == 0 {", "Ok(if seq & 1 == 0 || seq & 1 == 1 {"),
    ]),
    ("fence after the first look removed", LOOM, "the_geometry_changes_during_a_read", [
        (SEQLOCK, "let seq = mem.load_u32(at)?;\n        mem.fence_acquire();", "let seq = mem.load_u32(at)?;"),
    ]),
    ("fence before the second look removed", LOOM, "the_geometry_changes_during_a_read", [
        (SEQLOCK, "self.mem.fence_acquire();\n        Ok(", "Ok("),
    ]),
    ("fence after the first look moved ahead of it", LOOM, "the_ring_wraps_onto_the_slot_that_is_read", [
        (SEQLOCK, "let seq = mem.load_u32(at)?;\n        mem.fence_acquire();",
         "mem.fence_acquire();\n        let seq = mem.load_u32(at)?;"),
    ]),
    ("fence before the second look moved behind it", LOOM, "the_geometry_changes_during_a_read", [
        (SEQLOCK, "self.mem.fence_acquire();\n        Ok(self.mem.load_u32(self.at)? == self.seq)",
         "let seq = self.mem.load_u32(self.at)?;\n        self.mem.fence_acquire();\n        Ok(seq == self.seq)"),
    ]),
    ("line: verdict of the second look dropped", LOOM, "the_geometry_changes_during_a_read", [
        (LINES, "Ok(if section.is_unchanged()? {", "Ok(if section.is_unchanged().is_ok() {"),
    ]),
    ("frame: verdict of the second look dropped", LOOM, "the_ring_wraps_onto_the_slot_that_is_read", [
        (FRAME,
         "(false, _) => Try::Again(Skip::Torn { seq }),\n"
         "            (true, true) => Try::Again(Skip::Moved),\n            (true, false) =>",
         "(_, true) => Try::Again(Skip::Torn { seq }),\n            (_, false) =>"),
    ]),
    ("frame: second look made before the copy", LOOM, "the_ring_wraps_onto_the_slot_that_is_read", [
        (FRAME, "        let moved = match self.deliver_slot",
         "        let early = seen.section.is_unchanged();\n        let moved = match self.deliver_slot"),
        (FRAME, "let unchanged = seen.section.is_unchanged().map_err", "let unchanged = early.map_err"),
    ]),
    ("fence before the entries are read again removed", LOOM, "the_page_moves_during_a_read", [
        (REGION, "mem.fence_acquire();\n        self.trail", "self.trail"),
    ]),
    ("entries not read again", LOOM, "the_page_moves_during_a_read", [
        (REGION, "self.trail.still_holds(mem) == Ok(true)", "self.trail.still_holds(mem).is_ok()"),
    ]),
    ("second look at the epoch removed", LOOM, "liveness_under_a_session_break", [
        (LIVENESS, "Ok(if after == run_epoch {", "Ok(if after == run_epoch || after != run_epoch {"),
    ]),
    ("fence after the heartbeat removed", LOOM, "liveness_under_a_session_break", [
        (LIVENESS, "HEARTBEAT))?;\n    mem.fence_acquire();", "HEARTBEAT))?;"),
    ]),
    ("fence after the epoch removed", LOOM, "liveness_under_a_session_break", [
        (LIVENESS, "RUN_EPOCH))?;\n    mem.fence_acquire();", "RUN_EPOCH))?;"),
    ]),
    ("sessions not compared", LOOM, "liveness_under_a_session_break", [
        (LIVENESS, "if self.run_epoch != before.run_epoch {", "if self.run_epoch != before.run_epoch && ahead == 0 {"),
    ]),
    ("a heartbeat that went back is alive", SNAPSHOTS, "liveness_needs_the_same_session", [
        (LIVENESS, "ahead != 0 && ahead < 1 << 63", "ahead != 0"),
    ]),
    ("only the last of four entries of a trail counts", SNAPSHOTS, "a_table_that_is_replaced_voids_what_was_in_it", [
        (TRAIL, "differs |= entry.get()", "differs = entry.get()"),
    ]),
    ("only the last of five entries of a trail counts", SNAPSHOTS, "a_table_that_is_replaced_voids_what_was_in_it", [
        (TRAIL, "same &= entry.same_mapping", "same = entry.same_mapping"),
    ]),
    ("a page that moved is kept", SNAPSHOTS, "a_page_that_is_remapped_between_calls_gives_the_new_bytes", [
        (REGION, "if !holds {\n            self.page = None;", "if !holds {\n            self.page = self.page.take();"),
    ]),
    ("frame: a page that moved is not minded", SNAPSHOTS, "a_page_that_is_remapped_inside_a_call_is_read_again", [
        (FRAME, "(true, true) => Try::Again(Skip::Moved),\n            (true, false) =>", "(true, _) =>"),
    ]),
    ("poll: a page that moved is not minded", SNAPSHOTS,
     "a_producer_page_that_is_remapped_between_polls_is_not_asked_any_more", [
        (FRAME, "(frame_id == self.last_frame_id && page.still_holds(mem)).then_some", "(frame_id == self.last_frame_id).then_some"),
    ]),
    ("poll: any frame was taken already", SNAPSHOTS, "missed_frames_are_counted_and_older_ones_are_not_taken", [
        (FRAME, "(frame_id == self.last_frame_id && page", "(frame_id >= self.last_frame_id && page"),
    ]),
    ("the same frame taken twice", SNAPSHOTS, "a_producer_page_that_is_remapped_between_polls_is_not_asked_any_more", [
        (FRAME, "if frame_id == last {", "if frame_id == last && last == 0 {"),
    ]),
    ("verdict on a descriptor without a second look", SNAPSHOTS, "a_half_written_descriptor_is_no_lie", [
        (FRAME, "Err(_) if !section.is_unchanged()? =>", "Err(_) if section.is_unchanged().is_err() =>"),
    ]),
    ("error of a frame without a second look", SNAPSHOTS, "a_slot_that_was_left_is_not_an_error", [
        (FRAME, "Ok(false) => return Ok(Try::Again(Skip::Torn { seq: seen.section.seq() })),\n                Ok(true) | Err(_) =>",
         "Ok(_) | Err(_) =>"),
    ]),
    ("frame's pages not translated again", SNAPSHOTS, "a_page_that_is_remapped_inside_a_call_is_read_again", [
        (FRAME, "if !walker.still_in(at, len, &scratch.runs) {", "if scratch.runs.is_empty() {"),
    ]),
    ("older frames taken", SNAPSHOTS, "missed_frames_are_counted_and_older_ones_are_not_taken", [
        (FRAME, "if frame_id < last {", "if frame_id < last && last == 0 {"),
    ]),
    ("descriptor not checked", SNAPSHOTS, "lies_are_skipped_with_the_value", [
        (FRAME,
         "let needed = check_desc(desc).map_err(|fault| Skip::BadDescriptor { slot, fault })?;",
         "let needed = check_desc(desc).unwrap_or_else(|_| u64::from(slot));"),
    ]),
    ("fence before the ring's entries are read again removed", LOOM, "a_ring_page_moves_during_a_read", [
        (FRAME, "            mem.fence_acquire();\n            // The same entries again", "            // The same entries again"),
    ]),
    ("what the first try took counts though its page moved", LOOM, "the_page_moves_during_a_read", [
        (REGION, "page.still_holds(mem).then_some(value)", "Some(value)"),
    ]),
    ("frame: what the first try took counts though its page moved", SNAPSHOTS,
     "a_producer_page_that_is_remapped_inside_a_call_voids_the_frame", [
        (REGION, "if self.is_still_at(mem, gpa) {", "if self.is_still_at(mem, gpa) || got.is_ok() {"),
    ]),
    ("tries start from the same slot, not from latest", SNAPSHOTS, "tries_are_bounded_and_start_from_latest", [
        (FRAME, "Latest { scratch, capacity, deliver }", "Latest { scratch, capacity, deliver, pinned: None }"),
        (FRAME, "    deliver: &'s mut F,\n}", "    deliver: &'s mut F,\n    pinned: Option<u32>,\n}"),
        (FRAME, "region.look_at_latest(mem, page, self.capacity)", "region.look_at_latest(mem, page, self.capacity, &mut self.pinned)"),
        (FRAME, "        capacity: u64,\n    ) -> Result<Try<Seen",
         "        capacity: u64,\n        pinned: &mut Option<u32>,\n    ) -> Result<Try<Seen"),
        (FRAME, "let slot = mem.load_u32(page.wrapping_add(producer::LATEST))?;",
         "let slot = mem.load_u32(page.wrapping_add(producer::LATEST))?;\n        let slot = *pinned.get_or_insert(slot);"),
    ]),
]


# Where a check that fails is at home: a panic anywhere else (the model checker's own limits, a crash) catches nothing.
CHECKS = re.compile(r"panicked at (?:loom-tests/(?:src|tests)|core/tests)/[a-z_/]+\.rs:\d+")


def is_caught(result, named):
    """Whether the named test ran and one of its own checks failed."""
    output = result.stdout + result.stderr
    return result.returncode == 101 and f"    {named}\n" in output and CHECKS.search(output) is not None


def run(tree, test):
    command = ["cargo", "test", "--quiet", "--offline", "--locked", *test]
    return subprocess.run(command, cwd=tree, capture_output=True, text=True, timeout=300, env={
        **os.environ,
        "CARGO_TARGET_DIR": str(ROOT / "target" / "mutants"),
        "RUSTFLAGS": "-A warnings",
        "CARGO_PROFILE_DEV_DEBUG": "0",
        # The model checker's stacks are too small to walk: a backtrace from one never ends.
        "RUST_BACKTRACE": "0",
    })


def main():
    begun = time.monotonic()
    survivors = []
    chosen = [entry for entry in MUTATIONS if len(sys.argv) == 1 or any(word in entry[0] for word in sys.argv[1:])]
    if not chosen:
        sys.exit(f"no mutation is named like {sys.argv[1:]}")
    with tempfile.TemporaryDirectory() as directory:
        tree = pathlib.Path(directory) / "tree"
        files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout
        for name in files.decode().split("\0"):
            if name and (ROOT / name).is_file():
                (tree / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, tree / name)
        for test in (test for test in (LOOM, SNAPSHOTS) if any(entry[1] is test for entry in chosen)):
            clean = run(tree, test)
            if clean.returncode != 0:
                sys.exit(f"{' '.join(test)} fails before any mutation:\n{clean.stdout[-3000:]}{clean.stderr[-3000:]}")
        for name, file_of_tests, named, replacements in chosen:
            originals = {}
            for file, old, new in replacements:
                path = tree / file
                text = path.read_text()
                originals.setdefault(path, text)
                if text.count(old) != 1:
                    sys.exit(f"mutation '{name}': {file} has its text {text.count(old)} times, not once:\n{old}")
                path.write_text(text.replace(old, new))
            result = run(tree, [*file_of_tests, "--", "--exact", named])
            output = result.stdout + result.stderr
            if "could not compile" in output:
                sys.exit(f"mutation '{name}' does not compile:\n{output[-3000:]}")
            caught = is_caught(result, named)
            if not caught and result.returncode != 0:
                sys.exit(f"mutation '{name}': {named} ended, but not by a check of its own:\n{output[-3000:]}")
            print(f"{'caught' if caught else 'SURVIVED'}: source: {name} by {named}", flush=True)
            if not caught:
                survivors.append(name)
            for path, text in originals.items():
                path.write_text(text)
    print(f"figure: {len(chosen)} source mutations in {time.monotonic() - begun:.0f} s")
    if survivors:
        sys.exit(f"not caught: {', '.join(survivors)}")


if __name__ == "__main__":
    main()
