//! Which of several candidates a caller of the two-phase handshake is given.
//!
//! The handshake shows one candidate, and any process of the guest can forge some. So what the caller found out about
//! liveness decides first, then what the producer says of itself. A forged candidate that stands still is given at most
//! once: after it was asked about, it comes last.

use vgpu_perception::abi::State;
use vgpu_perception::region::Pulse;
use vgpu_perception::scan::Candidate;
use vgpu_perception::{Gpa, Gva};

use crate::kernel::Paging;

/// Candidates that are remembered; of more, the oldest is forgotten.
const REMEMBERED: usize = 32;

/// What is known about a candidate.
#[derive(Clone, Copy, Debug)]
struct Entry {
    place: (Gpa, Gva),
    /// What was handed out, and what the next question is compared with.
    pulse: Pulse,
    verdict: Verdict,
}

/// The caller's last answer about a candidate, best first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Verdict {
    /// The heartbeat advanced.
    Alive,
    /// Nobody asked.
    Unknown,
    /// It stood still.
    Still,
}

/// The candidates of one guest, as far as the caller asked about them.
#[derive(Debug)]
pub(crate) struct Seen {
    entries: [Option<Entry>; REMEMBERED],
    next: usize,
}

impl Seen {
    pub(crate) const fn new() -> Self {
        Self { entries: [None; REMEMBERED], next: 0 }
    }

    fn entry(&mut self, place: (Gpa, Gva)) -> Option<&mut Entry> {
        self.entries.iter_mut().flatten().find(|entry| entry.place == place)
    }

    fn put(&mut self, new: Entry) {
        if let Some(entry) = self.entry(new.place) {
            *entry = new;
            return;
        }
        if let Some(slot) = self.entries.get_mut(self.next) {
            *slot = Some(new);
        }
        self.next = (self.next + 1) % REMEMBERED;
    }

    /// Remembers a pulse that was handed out; what is known about it stays.
    pub(crate) fn handed_out(&mut self, place: (Gpa, Gva), pulse: Pulse) {
        let verdict = self.verdict(place, pulse);
        self.put(Entry { place, pulse, verdict });
    }

    /// The session in which `heartbeat` was handed out, where that is known.
    pub(crate) fn epoch_of(&mut self, place: (Gpa, Gva), heartbeat: u64) -> Option<u32> {
        self.entry(place).filter(|entry| entry.pulse.heartbeat == heartbeat).map(|entry| entry.pulse.run_epoch)
    }

    /// Remembers an answer.
    pub(crate) fn answered(&mut self, place: (Gpa, Gva), pulse: Pulse, verdict: Verdict) {
        self.put(Entry { place, pulse, verdict });
    }

    /// What is known of a candidate that shows `pulse` now. One that moved after it was called still is open again.
    pub(crate) fn verdict(&mut self, place: (Gpa, Gva), pulse: Pulse) -> Verdict {
        match self.entry(place) {
            Some(entry) if entry.verdict == Verdict::Still && entry.pulse != pulse => Verdict::Unknown,
            Some(entry) => entry.verdict,
            None => Verdict::Unknown,
        }
    }

    /// The order in which candidates are given: the least first.
    pub(crate) fn rank(&mut self, candidate: &Candidate<Paging>) -> Rank {
        let found = &candidate.found;
        let state = match found.status {
            State::CAPTURING => 0,
            State::PAUSED => 1,
            State::INIT => 2,
            State::ERROR => 3,
            _ => 4,
        };
        Rank(self.verdict(place_of(candidate), found.pulse), state, found.frame_id == 0)
    }
}

/// How good a candidate is: the least is the best.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank(Verdict, u8, bool);

/// What a candidate is remembered under.
pub(crate) const fn place_of(candidate: &Candidate<Paging>) -> (Gpa, Gva) {
    (candidate.process.space.root.table(), candidate.base)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: (Gpa, Gva) = (Gpa::new(0x1000), Gva::new(0x7000));

    const fn pulse(heartbeat: u64) -> Pulse {
        Pulse { heartbeat, run_epoch: 1 }
    }

    #[test]
    fn an_answer_holds_until_the_heartbeat_moves() {
        let mut seen = Seen::new();
        assert_eq!(seen.verdict(A, pulse(5)), Verdict::Unknown);
        seen.handed_out(A, pulse(5));
        assert_eq!(seen.epoch_of(A, 5), Some(1));
        assert_eq!(seen.epoch_of(A, 6), None);
        seen.answered(A, pulse(5), Verdict::Still);
        assert_eq!(seen.verdict(A, pulse(5)), Verdict::Still);
        assert_eq!(seen.verdict(A, pulse(6)), Verdict::Unknown);
        seen.handed_out(A, pulse(5));
        assert_eq!(seen.verdict(A, pulse(5)), Verdict::Still, "handing it out again is no news");
    }

    #[test]
    fn the_oldest_is_forgotten() {
        let mut seen = Seen::new();
        seen.answered(A, pulse(1), Verdict::Alive);
        for n in 0..REMEMBERED as u64 {
            seen.answered((Gpa::new(n << 20), Gva::new(0)), pulse(1), Verdict::Still);
        }
        assert_eq!(seen.verdict(A, pulse(1)), Verdict::Unknown);
    }
}
