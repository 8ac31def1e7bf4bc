//! The models can fail: each ordering is weakened alone, in the reader's memory or in the writer's, and each time the
//! model that is named for it finds an execution that breaks a property.

use vgpu_perception::abi::producer;
use vgpu_perception_loom::scenario::{self, Faults};
use vgpu_perception_loom::{Outcomes, ReaderFault, WriterFault, breaks};

type Model = fn(&Outcomes, Faults);

const WRAP: (&str, Model) = ("ring wraps", scenario::wrap);
const CURSOR: (&str, Model) = ("cursor", |outcomes, faults| scenario::cursor(outcomes, faults, 2, 1, 0));
const GEOMETRY: (&str, Model) = ("geometry", scenario::geometry);
const FIRST: (&str, Model) = ("first frame", |outcomes, faults| scenario::frames(outcomes, faults, 0, 1, 0));
const RESTART: (&str, Model) = ("restart", scenario::restart);
const LIVENESS: (&str, Model) = ("liveness", scenario::liveness);
const MOVED: (&str, Model) = ("page moves", scenario::moved);
const RING_MOVED: (&str, Model) = ("ring page moves", scenario::ring_moved);

fn reader(drop: u32, every: u32) -> Faults {
    Faults { reader: ReaderFault::Fences { drop, every }, ..Faults::NONE }
}

fn writer(writer: WriterFault) -> Faults {
    Faults { writer, ..Faults::NONE }
}

/// A frame's try has five fences: after `latest`, at the start of the section, after a chunk, before the second look at
/// the number, before the second look at the entries. A line's has three: the second, the fourth and the fifth of
/// these. The heartbeat's has three: after the epoch, after the heartbeat, before the entries.
///
/// One fence is not here, since leaving it out changes no outcome: the one after `latest`. The fence at the start of
/// the section comes after it and orders the same loads; what is missing is only that the slot's number may be an old
/// one, which the second look finds.
#[test]
fn every_weakened_ordering_is_caught() {
    let mutants: [(&str, Faults, (&str, Model)); 19] = [
        ("reader: frame: no fence at the start of the section", reader(0b00010, 5), WRAP),
        ("reader: frame: no fence between pixels and the second look", reader(0b01100, 5), WRAP),
        ("reader: frame: no fence before the ring's entries are read again", reader(0b00100, 5), RING_MOVED),
        ("reader: cursor: no fence at the start of the section", reader(0b001, 3), CURSOR),
        ("reader: cursor: no fence before the second look", reader(0b010, 3), CURSOR),
        ("reader: geometry: no fence at the start of the section", reader(0b001, 3), GEOMETRY),
        ("reader: geometry: no fence before the second look", reader(0b010, 3), GEOMETRY),
        ("reader: pulse: no fence after the epoch", reader(0b001, 3), LIVENESS),
        ("reader: pulse: no fence after the heartbeat", reader(0b010, 3), LIVENESS),
        ("reader: status: no fence before the entries are read again", reader(0b1, 1), MOVED),
        ("writer: no release fence after the odd number, frame", writer(WriterFault::NoFence), WRAP),
        ("writer: no release fence after the odd number, line", writer(WriterFault::NoFence), CURSOR),
        ("writer: all release stores relaxed", writer(WriterFault::RelaxedRelease), WRAP),
        ("writer: even number of a slot relaxed", writer(WriterFault::RelaxedAt(producer::SEQ)), WRAP),
        ("writer: even number of the cursor relaxed", writer(WriterFault::RelaxedAt(producer::CURSOR_SEQ)), CURSOR),
        ("writer: latest relaxed", writer(WriterFault::RelaxedRelease), FIRST),
        ("writer: run_epoch relaxed", writer(WriterFault::RelaxedAt(producer::RUN_EPOCH)), RESTART),
        ("writer: heartbeat relaxed", writer(WriterFault::RelaxedAt(producer::HEARTBEAT)), LIVENESS),
        ("writer: number never odd", writer(WriterFault::NeverOdd), CURSOR),
    ];
    let survivors: Vec<_> = mutants
        .iter()
        .filter(|(name, faults, (model, run))| {
            let (faults, run) = (*faults, *run);
            let broken = breaks(3, move |outcomes| run(outcomes, faults));
            println!(
                "{}: {name} by {model}: {}",
                if broken.is_some() { "caught" } else { "SURVIVED" },
                broken.as_deref().unwrap_or("").lines().next().unwrap_or("")
            );
            broken.is_none()
        })
        .map(|(name, ..)| *name)
        .collect();
    assert!(survivors.is_empty(), "not caught: {survivors:?}");
}

/// With bound 0 there is one execution, and nothing is caught: the bound is what the models live on.
#[test]
fn bound_zero_explores_nothing() {
    let faults = reader(0b010, 3);
    assert_eq!(breaks(0, move |outcomes| (CURSOR.1)(outcomes, faults)), None);
}

/// What ends a model but is no check of ours catches nothing.
#[test]
#[should_panic(expected = "by no check of its own")]
fn a_limit_of_the_model_checker_catches_nothing() {
    breaks(1, |_| {
        let never = loom::sync::atomic::AtomicBool::new(false);
        while !never.load(loom::sync::atomic::Ordering::Relaxed) {
            loom::thread::yield_now();
        }
    });
}
