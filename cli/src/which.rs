//! Which of a guest's regions a command is about.

use vgpu_perception::Cr3;
use vgpu_perception::process::guest::GuestPaging;
use vgpu_perception::scan::Candidate;
use vgpu_perception_host::{Live, Ram, Sighting};
use vgpu_perception_view::Feed;

use crate::args::{Guest, Which};
use crate::failure::Failure;
use crate::look::Look;
use crate::numbers::Root;
use crate::show;

/// What was asked for: the more is given, the fewer regions fit.
#[derive(Debug)]
pub(crate) struct Choice<'a> {
    which: &'a Which,
    root: Option<Cr3>,
}

impl Which {
    /// Whether any region will do.
    pub(crate) const fn is_any(&self) -> bool {
        self.base.is_none() && self.process.is_none()
    }

    pub(crate) fn fits(&self, candidate: &Candidate<GuestPaging>) -> bool {
        let process = &candidate.process;
        let of_process = |wanted: &String| {
            process.name.is_some_and(|name| name.to_string() == *wanted)
                || process.pid.is_some_and(|pid| wanted.parse() == Ok(pid))
        };
        self.base.is_none_or(|base| candidate.base.get() == base) && self.process.as_ref().is_none_or(of_process)
    }

    /// A feed of the regions that fit, and of no other.
    pub(crate) fn feed(&self, guest: vgpu_perception_host::Guest<Ram>) -> Feed<Ram> {
        if self.is_any() {
            return Feed::new(guest);
        }
        let which = self.clone();
        Feed::new(guest).only(move |candidate| which.fits(candidate))
    }

    /// What to add where no producer was found: the ones that there are may be others.
    pub(crate) const fn hint(&self) -> &'static str {
        if self.is_any() {
            ""
        } else {
            "; only regions that --base and --process name were looked for: vgpu find lists all"
        }
    }
}

impl<'a> Choice<'a> {
    pub(crate) const fn new(which: &'a Which, guest: &Guest) -> Self {
        let root = match guest.cr3 {
            Root::Auto => None,
            Root::Given(root) => Some(root),
        };
        Self { which, root }
    }

    fn fits(&self, candidate: &Candidate<GuestPaging>) -> bool {
        self.which.fits(candidate)
    }

    /// The given root belongs to this candidate's process.
    fn is_of_root(&self, candidate: &Candidate<GuestPaging>) -> bool {
        let process = &candidate.process;
        self.root.is_some_and(|root| {
            [Some(process.space.root), process.user_root].into_iter().flatten().any(|own| own.table() == root.table())
        })
    }

    /// The live regions that fit, best first. A root names a process where one that fits has it, else only the guest.
    pub(crate) fn live(&self, look: &mut Look) -> Vec<(Live<Ram>, Sighting)> {
        let sightings = look.survey.candidates();
        let place = |one: &Candidate<GuestPaging>| (one.process.space.root, one.base);
        let sighting = |live: &Live<Ram>| {
            let same = |one: &&Sighting| place(&one.candidate) == place(live.candidate());
            sightings.iter().find(same).copied()
        };
        let narrowed = sightings.iter().any(|one| self.is_of_root(&one.candidate));
        let all = core::mem::take(&mut look.lives);
        all.into_iter()
            .filter(|live| self.fits(live.candidate()) && (!narrowed || self.is_of_root(live.candidate())))
            .filter_map(|live| sighting(&live).map(|sighting| (live, sighting)))
            .collect()
    }

    /// The best of all that fit, living or not.
    pub(crate) fn first(&self, look: &Look) -> Option<Sighting> {
        let all = look.survey.candidates();
        let narrowed = all.iter().any(|one| self.is_of_root(&one.candidate));
        let fits = |one: &&Sighting| self.fits(&one.candidate) && (!narrowed || self.is_of_root(&one.candidate));
        all.iter().find(fits).copied()
    }

    /// Why none fits, and what there is.
    pub(crate) fn none(&self, look: &Look) -> Failure {
        let all = look.survey.candidates();
        if self.first(look).is_none() && !all.is_empty() {
            let lines: Vec<_> = all.iter().take(8).map(show::line).collect();
            return Failure::Nothing(format!(
                "no region is the one that was asked for (--base, --process); there are:\n  {}",
                lines.join("\n  ")
            ));
        }
        let hint = if all.is_empty() { "" } else { "; --stale takes a stale region (no heartbeat)" };
        let text = format!("{}{hint}", show::advice(look));
        if look.unusable.is_some() { Failure::Guest(text) } else { Failure::Nothing(text) }
    }
}

/// What to say where several live and one was taken.
pub(crate) fn several(taken: &Sighting, others: &[(Live<Ram>, Sighting)]) -> Option<String> {
    if others.is_empty() {
        return None;
    }
    let lines: Vec<_> = others.iter().take(8).map(|(_, one)| show::line(one)).collect();
    Some(format!(
        "{} regions live; this is the one at base {:#x}, cr3 {:#x}. --base, --process or --cr3 choose another, sample \
         --all takes each:\n  {}",
        others.len() + 1,
        taken.candidate.base.get(),
        taken.candidate.process.space.root.get(),
        lines.join("\n  ")
    ))
}
