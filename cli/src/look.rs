//! A survey as the commands make it: with a progress bar, and with the wait of the liveness proof.

use core::ops::ControlFlow;
use core::time::Duration;
use std::time::Instant;

use vgpu_perception::find::{FindError, FindPhase, FindProgress};
use vgpu_perception_host::attach::why_frozen;
use vgpu_perception_host::{Guest, Live, Ram, Shared, Sighting, Survey, SurveyError};
use vgpu_perception_mapped::{Change, ChangeProbe};

use crate::failure::Failure;
use crate::progress::Progress;
use crate::verbose::say;

/// How long to sleep between two looks at the heartbeats: a small part of the period in which each has to beat.
const POLL: Duration = Duration::from_millis(5);

/// What was found, and what lives of it.
#[derive(Debug)]
pub(crate) struct Look {
    pub(crate) survey: Survey<Ram>,
    /// The producers that were seen to live, best first.
    pub(crate) lives: Vec<Live<Ram>>,
    /// Set where nothing lives: whether the RAM changes at all.
    pub(crate) change: Option<Change>,
    /// Set where nothing lives and it can be seen why: the RAM file shows no guest that runs.
    pub(crate) unusable: Option<String>,
    /// The memory stands still, as that of a dump does: no producer can be seen to live.
    pub(crate) stands_still: bool,
}

/// When a look has seen enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Until {
    /// When every candidate is known to live; or when one lives and the others had the time in which each has to beat.
    BestIsKnown,
    /// When every candidate is known to live, or the wait is over.
    AllAreKnown,
}

/// Finds all candidates and watches their heartbeats, for as long as `wait` at most.
pub(crate) fn look(guest: &Guest<Ram>, wait: Duration, until: Until) -> Result<Look, Failure> {
    let bar = Progress::start("searching");
    let mut phase = None;
    let survey = guest.survey_with(|progress| {
        bar.say(|| message(&progress));
        // A phase is said once, a pass of it too.
        let now = (progress.phase, progress.scan.pass);
        if phase.replace(now) != Some(now) {
            say(|| message(&progress));
        }
        ControlFlow::Continue(())
    });
    let mut survey = survey.map_err(|error| explained(guest, error))?;
    let memory = survey.memory().clone();
    let probe = probe(&memory)?;
    say(|| {
        let count = survey.candidates().len();
        format!(
            "searched; {count} candidates, {} left out; watching their heartbeats for up to {wait:?}",
            survey.left()
        )
    });
    bar.say(|| format!("watching the heartbeats of {} candidates", survey.candidates().len()));
    let deadline = Instant::now() + if guest.is_live() { wait.max(survey.wait()) } else { Duration::ZERO };
    let mut lives: Vec<Live<Ram>> = Vec::new();
    loop {
        // From the end of the shortest wait on it is known of each whether it lives.
        let ripe = survey.wait().is_zero();
        let beaten = if ripe { survey.confirm().unwrap_or_default() } else { survey.poll() };
        for live in beaten {
            let place = |one: &Live<Ram>| (one.candidate().process.space.root, one.candidate().base);
            if !lives.iter().any(|known| place(known) == place(&live)) {
                lives.push(live);
            }
        }
        let known = survey.candidates().iter().all(Sighting::is_alive);
        let enough = until == Until::BestIsKnown && ripe && !lives.is_empty();
        if known || enough || Instant::now() >= deadline {
            break;
        }
        std::thread::sleep(POLL);
    }
    drop(bar);
    lives.sort_by_key(Live::rank);
    say(|| format!("{} of {} candidates live", lives.len(), survey.candidates().len()));
    let change = match (&probe, &*memory) {
        (Some(probe), Ram::Mapped(ram)) if lives.is_empty() && guest.is_live() => Some(probe.compare(ram)?),
        _ => None,
    };
    let unusable = match (change, &*memory) {
        (Some(Change::Frozen { .. }), Ram::Mapped(ram)) => ram.files().iter().find_map(|file| why_frozen(file.path())),
        _ => None,
    };
    Ok(Look { survey, lives, change, unusable, stands_still: !guest.is_live() })
}

/// An error of a search, with what can be seen of a file that shows no guest that runs.
fn explained(guest: &Guest<Ram>, error: SurveyError) -> Failure {
    if let SurveyError::Find(FindError::NoKernel) = error
        && guest.is_live()
        && let Ram::Mapped(ram) = &*guest.memory()
        && let Some(why) = ram.files().iter().find_map(|file| why_frozen(file.path()))
    {
        return Failure::Guest(format!("{error} See --machine and --map. Besides, {why}"));
    }
    error.into()
}

/// A first look at RAM that is mapped, to tell a guest that stands still.
fn probe(memory: &Shared<Ram>) -> Result<Option<ChangeProbe>, Failure> {
    match &**memory {
        Ram::Mapped(ram) => Ok(Some(ChangeProbe::new(ram, 4096)?)),
        _ => Ok(None),
    }
}

/// How far a search is, in words.
pub(crate) fn message(progress: &FindProgress) -> String {
    let stats = &progress.stats;
    match progress.phase {
        FindPhase::Kernel => "looking for the kernel".to_owned(),
        FindPhase::Scan | FindPhase::End => format!(
            "pass {}: {} address spaces, {} page tables, {} pages, {} candidates",
            progress.scan.pass, stats.spaces, stats.tables, stats.pages, stats.candidates
        ),
    }
}
