//! The order in which candidates are taken: the only place that knows it.

use crate::abi::State;
use crate::addr::{Gpa, Gva};
use crate::scan::Candidate;

/// What the caller found out about a candidate's heartbeat. Better verdicts are less.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Verdict {
    /// The heartbeat advanced: a producer is running.
    Alive,
    /// Nobody asked, or the answer was unclear.
    #[default]
    Unknown,
    /// The heartbeat did not advance.
    Stale,
}

/// How good a candidate is: the least is taken first.
///
/// Any process of the guest can forge candidates, so what the caller found out about liveness decides first; then what
/// the producer says of itself (capturing, paused, starting, in error, anything else); then whether it has published a
/// frame. The place comes last and makes the order total, so that every front end names the same candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Rank {
    verdict: Verdict,
    state: u8,
    no_frame: bool,
    root: Gpa,
    base: Gva,
}

impl Rank {
    /// The rank of a candidate about which the caller knows `verdict`.
    #[must_use]
    pub fn of<R>(candidate: &Candidate<R>, verdict: Verdict) -> Self {
        let state = match candidate.found.status {
            State::CAPTURING => 0,
            State::PAUSED => 1,
            State::INIT => 2,
            State::ERROR => 3,
            _ => 4,
        };
        Self {
            verdict,
            state,
            no_frame: candidate.found.frame_id == 0,
            root: candidate.process.space.root.table(),
            base: candidate.base,
        }
    }

    /// The verdict that this rank was made with.
    #[must_use]
    pub const fn verdict(self) -> Verdict {
        self.verdict
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::addr::Cr3;
    use crate::paging::{AddressSpace, Residence};
    use crate::process::Process;
    use crate::region::Pulse;
    use crate::scan::Found;

    fn candidate(root: u64, base: u64, status: State, frame_id: u64) -> Candidate<crate::paging::Hardware> {
        let found = Found {
            page: Gpa::new(0x1000),
            residence: Residence::Present,
            pulse: Pulse { heartbeat: 1, run_epoch: 1 },
            status,
            frame_id,
        };
        let process = Process::unnamed(AddressSpace::new(Cr3::new(root)));
        Candidate::probed(process, Gva::new(base), found)
    }

    #[test]
    fn liveness_decides_first_then_the_state_then_the_place() {
        let ordered = [
            Rank::of(&candidate(0x9000, 0, State::ERROR, 0), Verdict::Alive),
            Rank::of(&candidate(0x1000, 0, State::CAPTURING, 5), Verdict::Unknown),
            Rank::of(&candidate(0x1000, 0x1000, State::CAPTURING, 5), Verdict::Unknown),
            Rank::of(&candidate(0x2000, 0, State::CAPTURING, 5), Verdict::Unknown),
            Rank::of(&candidate(0x1000, 0, State::CAPTURING, 0), Verdict::Unknown),
            Rank::of(&candidate(0x1000, 0, State::PAUSED, 5), Verdict::Unknown),
            Rank::of(&candidate(0x1000, 0, State::STOPPED, 5), Verdict::Unknown),
            Rank::of(&candidate(0x1000, 0, State::CAPTURING, 5), Verdict::Stale),
        ];
        assert!(ordered.is_sorted_by(|a, b| a < b), "{ordered:?}");
    }
}
