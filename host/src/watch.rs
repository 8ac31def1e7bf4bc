//! One producer of a guest, followed through its restarts and the guest's reboots.

use core::ops::ControlFlow;
use core::time::Duration;
use std::sync::Arc;
use std::time::Instant;

use vgpu_perception::PhysRead;
use vgpu_perception::abi::HEARTBEAT_PERIOD_MS;
use vgpu_perception::find::FindProgress;
use vgpu_perception::process::guest::{GuestKernel, GuestPaging};
use vgpu_perception::region::{Liveness, Pulse, ReadError};
use vgpu_perception::scan::Candidate;

use crate::error::SurveyError;
use crate::guest::Guest;
use crate::live::Live;
use crate::survey::Survey;

const PERIOD: Duration = Duration::from_millis(HEARTBEAT_PERIOD_MS as u64);
/// Heartbeat periods without a beat after which a producer counts as gone. One suffices by the contract; a guest whose
/// processors are busy elsewhere is late.
const PATIENCE: u32 = 4;
/// The longest pause between two searches of a guest that shows nothing.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Which candidates a watch takes.
type Filter = Box<dyn Fn(&Candidate<GuestPaging>) -> bool + Send>;

/// Follows one producer of a guest: finds it, notices when it restarts, ends or when the guest reboots, and finds it
/// again.
///
/// It never sleeps and starts no thread. [`step`](Self::step) does one piece of work and says when to call it next;
/// between two calls [`live`](Self::live) is read as often as the caller likes. A search for a producer that ended
/// begins with the kernel that was there before, without a pass for the kernel over all of RAM.
///
/// ```no_run
/// use vgpu_perception::PhysRead;
/// use vgpu_perception_host::{Event, FrameBuffer, Guest, Sample, Watch};
///
/// fn follow(guest: Guest<impl PhysRead>) -> Result<(), Box<dyn core::error::Error>> {
///     let mut watch = Watch::new(guest);
///     let mut picture = FrameBuffer::new(3840 * 2160 * 4);
///     loop {
///         let (event, next) = watch.step(std::time::Instant::now());
///         match event {
///             Event::Failed(error) => return Err(error.into()),
///             event => println!("{event:?}"),
///         }
///         if let Some(live) = watch.live()
///             && let Ok(Sample::Fresh(frame)) = live.frame(&mut picture)
///         {
///             println!("frame {}", frame.desc.frame_id);
///         }
///         std::thread::sleep(next.saturating_duration_since(std::time::Instant::now()));
///     }
/// }
/// ```
pub struct Watch<M> {
    guest: Arc<Guest<M>>,
    filter: Option<Filter>,
    state: State<M>,
    pause: Duration,
}

enum State<M> {
    /// The next survey is due.
    Search {
        due: Instant,
        /// The kernel that the last one found and that led to nobody who lives.
        before: Option<Box<GuestKernel>>,
    },
    /// Candidates wait for their heartbeats.
    Confirm {
        survey: Box<Survey<M>>,
        /// Tries in which nobody beat, and when the next one counts.
        tries: u32,
        due: Instant,
    },
    Live(Box<Following<M>>),
}

struct Following<M> {
    live: Live<M>,
    pulse: Pulse,
    /// When the heartbeat was last seen to advance.
    beat: Instant,
    /// A new session, in which no beat was seen yet: the page may be somebody else's by now.
    unproven: Option<u32>,
}

impl<M> core::fmt::Debug for Watch<M> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let state = match &self.state {
            State::Search { .. } => "searching",
            State::Confirm { .. } => "confirming",
            State::Live(_) => "live",
        };
        f.debug_struct("Watch").field("guest", &self.guest).field("state", &state).finish_non_exhaustive()
    }
}

/// What a step of a [`Watch`] gave.
#[derive(Debug)]
#[non_exhaustive]
pub enum Event {
    /// Nothing new: candidates are being confirmed, or the producer goes on.
    Nothing,
    /// The guest has no candidate now.
    NoCandidate,
    /// A producer lives; [`Watch::live`] reads it.
    Found,
    /// The producer began a new session at the same place, and its heart was seen to beat in it. Its frames are
    /// numbered anew; which were taken is forgotten.
    Restarted {
        /// The new session.
        run_epoch: u32,
    },
    /// The producer's pages are gone: it has ended, or the guest has rebooted. It is being looked for.
    Gone(ReadError),
    /// The heartbeat stands still: the producer has ended, or the guest is paused. It is being looked for.
    Stale,
    /// The guest could not be searched. The next step tries again.
    Failed(SurveyError),
}

impl<M: PhysRead> Watch<M> {
    /// Follows the best producer of `guest`, which others may use meanwhile.
    #[must_use]
    pub fn new(guest: impl Into<Arc<Guest<M>>>) -> Self {
        let state = State::Search { due: Instant::now(), before: None };
        Self { guest: guest.into(), filter: None, state, pause: PERIOD }
    }

    /// Begins with a producer that was confirmed already, without a search. One without proof is left aside.
    #[must_use]
    pub fn beginning_with(mut self, live: Live<M>) -> Self {
        if let Some(pulse) = live.proof() {
            self.state = State::Live(Box::new(Following { live, pulse, beat: Instant::now(), unproven: None }));
        }
        self
    }

    /// Takes only candidates for which `filter` holds.
    #[must_use]
    pub fn only(mut self, filter: impl Fn(&Candidate<GuestPaging>) -> bool + Send + 'static) -> Self {
        self.filter = Some(Box::new(filter));
        self
    }

    /// The guest.
    #[must_use]
    pub fn guest(&self) -> &Guest<M> {
        &self.guest
    }

    /// The producer that is followed, while it lives.
    pub fn live(&mut self) -> Option<&mut Live<M>> {
        match &mut self.state {
            State::Live(following) => Some(&mut following.live),
            State::Search { .. } | State::Confirm { .. } => None,
        }
    }

    /// Does what is due at `now`: at most one survey of the guest, or one look at each heartbeat. Gives what happened,
    /// and when the next step is due; a step that comes sooner does no harm.
    pub fn step(&mut self, now: Instant) -> (Event, Instant) {
        self.step_with(now, |_| ControlFlow::Continue(()))
    }

    /// As [`step`](Self::step), and calls `each` with the progress of a survey every few milliseconds. Where that
    /// breaks off, the event is [`SurveyError::Cancelled`], and the next step begins that search again.
    pub fn step_with(&mut self, now: Instant, each: impl FnMut(FindProgress) -> ControlFlow<()>) -> (Event, Instant) {
        let state = core::mem::replace(&mut self.state, State::Search { due: now, before: None });
        match state {
            State::Search { due, before } if now < due => {
                self.state = State::Search { due, before };
                (Event::Nothing, due)
            }
            State::Search { before, .. } => self.search(now, before, each),
            State::Confirm { survey, tries, due } => self.confirm(now, survey, tries, due, each),
            State::Live(following) => self.follow(now, following),
        }
    }

    fn search(
        &mut self,
        now: Instant,
        before: Option<Box<GuestKernel>>,
        each: impl FnMut(FindProgress) -> ControlFlow<()>,
    ) -> (Event, Instant) {
        if let Some(kernel) = &before {
            self.guest.doubt(kernel);
        }
        match self.guest.survey_with(each) {
            Ok(survey) if survey.candidates().is_empty() => {
                self.guest.forget();
                self.later(now, Event::NoCandidate, Some(survey.kernel()))
            }
            Ok(survey) => {
                let next = now + survey.wait();
                self.state = State::Confirm { survey: Box::new(survey), tries: 0, due: next };
                (Event::Nothing, next)
            }
            Err(SurveyError::Cancelled) => {
                self.state = State::Search { due: now, before };
                (Event::Failed(SurveyError::Cancelled), now)
            }
            Err(error) => {
                self.guest.forget();
                self.later(now, Event::Failed(error), None)
            }
        }
    }

    /// Searches again after a pause, which grows while there is nothing.
    fn later(&mut self, now: Instant, event: Event, kernel: Option<&GuestKernel>) -> (Event, Instant) {
        let due = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.state = State::Search { due, before: kernel.map(|kernel| Box::new(*kernel)) };
        (event, due)
    }

    fn confirm(
        &mut self,
        now: Instant,
        mut survey: Box<Survey<M>>,
        tries: u32,
        due: Instant,
        each: impl FnMut(FindProgress) -> ControlFlow<()>,
    ) -> (Event, Instant) {
        let ripe = survey.wait().is_zero() && now >= due;
        let lives = if ripe { survey.confirm().unwrap_or_default() } else { survey.poll() };
        let wanted = |live: &Live<M>| self.filter.as_ref().is_none_or(|filter| filter(live.candidate()));
        if let Some(live) = lives.into_iter().find(wanted)
            && let Some(pulse) = live.proof()
        {
            self.guest.remember(survey.kernel().led_by(survey.memory(), live.candidate().process.space.root));
            self.pause = PERIOD;
            self.state = State::Live(Box::new(Following { live, pulse, beat: now, unproven: None }));
            return (Event::Found, now);
        }
        if !ripe {
            let next = due.max(now + survey.wait());
            self.state = State::Confirm { survey, tries, due };
            return (Event::Nothing, next);
        }
        // A kernel that the boot before left behind leads to nobody who lives, however long that is waited for.
        if !self.guest.kernel_runs() {
            self.guest.forget();
            return (Event::Nothing, now);
        }
        if tries + 1 < PATIENCE {
            let due = now + PERIOD;
            self.state = State::Confirm { survey, tries: tries + 1, due };
            return (Event::Nothing, due);
        }
        // Whatever is left behind the first ones gets its turn before the guest is searched anew.
        match survey.more_with(each) {
            Ok(true) => {
                let due = now + survey.wait();
                self.state = State::Confirm { survey, tries: 0, due };
                return (Event::Nothing, due);
            }
            Err(SurveyError::Cancelled) => {
                self.state = State::Confirm { survey, tries, due };
                return (Event::Failed(SurveyError::Cancelled), now);
            }
            Ok(false) | Err(_) => {}
        }
        self.guest.forget();
        self.later(now, Event::NoCandidate, Some(survey.kernel()))
    }

    fn follow(&mut self, now: Instant, mut following: Box<Following<M>>) -> (Event, Instant) {
        let Following { live, pulse, beat, unproven } = &mut *following;
        match live.reader_mut().confirm_alive(*pulse) {
            Err(error) => (Event::Gone(error), now),
            Ok(Liveness::Alive(new)) => {
                *pulse = new;
                *beat = now;
                // What its clock says now is what the next search compares with.
                let _ = self.guest.kernel_runs();
                let event = unproven.take().map_or(Event::Nothing, |run_epoch| Event::Restarted { run_epoch });
                self.state = State::Live(following);
                (event, now + PERIOD)
            }
            Ok(_) if now.saturating_duration_since(*beat) > PERIOD * PATIENCE => (Event::Stale, now),
            Ok(Liveness::Restarted(new)) => {
                *pulse = new;
                *unproven = Some(new.run_epoch);
                live.forget_frames();
                self.state = State::Live(following);
                (Event::Nothing, now + PERIOD)
            }
            Ok(_) => {
                self.state = State::Live(following);
                (Event::Nothing, now + PERIOD)
            }
        }
    }
}
