//! One guest of the wall: what clients want of it, and what its reader gives.

use core::time::Duration;
use std::collections::BTreeMap;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde::Serialize;
use tokio::sync::watch;

use crate::metrics::GuestMetrics;
use crate::shot::Shot;

/// How long after the last look at a guest its heartbeat is still followed: two scrapes of a slow collector.
const STATE: Duration = Duration::from_secs(60);
/// How long after the last request for a frame its memory is kept.
const FRAMES: Duration = Duration::from_secs(10);
/// How long a still is waited for: a search of a large guest takes seconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);

/// A guest that is shown.
#[derive(Debug)]
pub(crate) struct Shown {
    /// What people call it.
    pub(crate) name: String,
    /// Its name in paths and labels: letters, digits, `.`, `_`, `-`.
    pub(crate) slug: String,
    pub(crate) metrics: GuestMetrics,
    wants: Mutex<Wants>,
    wake: Condvar,
    facts: Mutex<Facts>,
    shots: watch::Sender<Option<Arc<Shot>>>,
    answered: watch::Sender<u64>,
}

/// What clients want.
#[derive(Debug)]
struct Wants {
    /// How many streams there are of each rate.
    streams: BTreeMap<u32, usize>,
    /// Stills that were asked for.
    asked: u64,
    frames_until: Instant,
    state_until: Instant,
    retired: bool,
}

/// What the reader does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Order {
    /// Frames a second, where there are streams.
    pub(crate) fps: Option<u32>,
    /// The number of the last still that was asked for.
    pub(crate) asked: u64,
    /// It was not given yet.
    pub(crate) pending: bool,
    /// Frames are wanted, or were a moment ago.
    pub(crate) frames: bool,
    /// Somebody wants to know how it stands.
    pub(crate) state: bool,
    pub(crate) retired: bool,
}

/// What is known of a guest.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Facts {
    pub(crate) state: &'static str,
    pub(crate) detail: String,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) frame_id: u64,
    pub(crate) run_epoch: u32,
    pub(crate) frames: u64,
    pub(crate) missed: u64,
    pub(crate) retries: u64,
}

impl Shown {
    pub(crate) fn new(name: String, slug: String, metrics: GuestMetrics) -> Arc<Self> {
        let now = Instant::now();
        let wants = Wants { streams: BTreeMap::new(), asked: 0, frames_until: now, state_until: now, retired: false };
        Arc::new(Self {
            name,
            slug,
            metrics,
            wants: Mutex::new(wants),
            wake: Condvar::new(),
            facts: Mutex::new(Facts { state: "idle", detail: "nobody has looked yet".into(), ..Facts::default() }),
            shots: watch::Sender::new(None),
            answered: watch::Sender::new(0),
        })
    }

    fn wants(&self) -> MutexGuard<'_, Wants> {
        self.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    // What clients call.

    /// Somebody wants to know how it stands.
    pub(crate) fn look(&self) {
        self.wants().state_until = Instant::now() + STATE;
        self.wake.notify_all();
    }

    pub(crate) fn facts(&self) -> Facts {
        self.facts.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The latest frame as it is now: the guest is asked after this call, and not before. `None` where it has none.
    pub(crate) async fn latest(&self) -> Option<Arc<Shot>> {
        let mut answered = self.answered.subscribe();
        let ticket = {
            let mut wants = self.wants();
            let now = Instant::now();
            wants.asked += 1;
            wants.frames_until = now + FRAMES;
            wants.state_until = now + STATE;
            wants.asked
        };
        self.wake.notify_all();
        let wait = answered.wait_for(|answered| *answered >= ticket);
        tokio::time::timeout(PATIENCE, wait).await.ok()?.ok()?;
        self.shots.borrow().clone()
    }

    /// Frames as they come, at most `fps` a second, for as long as the guard lives.
    pub(crate) fn stream(self: &Arc<Self>, fps: u32) -> (Viewer, watch::Receiver<Option<Arc<Shot>>>) {
        *self.wants().streams.entry(fps).or_default() += 1;
        self.metrics.viewers.inc();
        self.look();
        (Viewer { guest: Arc::clone(self), fps }, self.shots.subscribe())
    }

    /// The guest is no longer shown: its reader ends, and so do its streams.
    pub(crate) fn retire(&self) {
        self.wants().retired = true;
        self.wake.notify_all();
    }

    pub(crate) fn is_retired(&self) -> bool {
        self.wants().retired
    }

    // What the reader calls.

    pub(crate) fn order(&self) -> Order {
        let wants = self.wants();
        let now = Instant::now();
        let answered = *self.answered.borrow();
        let fps = wants.streams.keys().next_back().copied();
        // Who asked has given up by then: a producer that never published is not polled for ever.
        let waits = now < wants.frames_until;
        Order {
            fps,
            asked: wants.asked,
            pending: wants.asked > answered && waits,
            frames: fps.is_some() || waits,
            state: fps.is_some() || now < wants.state_until,
            retired: wants.retired,
        }
    }

    /// Sleeps until `until`, or until clients want something else than `order`.
    pub(crate) fn rest(&self, order: Order, until: Option<Instant>) {
        let mut wants = self.wants();
        loop {
            let fps = wants.streams.keys().next_back().copied();
            if wants.retired || wants.asked != order.asked || fps != order.fps {
                return;
            }
            if !order.state && Instant::now() < wants.state_until {
                return;
            }
            wants = match until {
                None => self.wake.wait(wants).unwrap_or_else(PoisonError::into_inner),
                Some(until) => {
                    let left = until.saturating_duration_since(Instant::now());
                    if left.is_zero() {
                        return;
                    }
                    self.wake.wait_timeout(wants, left).unwrap_or_else(PoisonError::into_inner).0
                }
            };
        }
    }

    /// Shows a new frame, or none any more.
    pub(crate) fn show(&self, shot: Option<Arc<Shot>>) {
        self.shots.send_replace(shot);
    }

    pub(crate) fn shows(&self) -> bool {
        self.shots.borrow().is_some()
    }

    /// Says that all stills up to `asked` can be had now.
    pub(crate) fn answer(&self, asked: u64) {
        self.answered.send_if_modified(|answered| core::mem::replace(answered, asked) != asked);
    }

    pub(crate) fn set_facts(&self, change: impl FnOnce(&mut Facts)) {
        change(&mut self.facts.lock().unwrap_or_else(PoisonError::into_inner));
    }
}

/// A stream that somebody watches.
#[derive(Debug)]
pub(crate) struct Viewer {
    guest: Arc<Shown>,
    fps: u32,
}

impl Drop for Viewer {
    fn drop(&mut self) {
        {
            let mut wants = self.guest.wants();
            if let Some(count) = wants.streams.get_mut(&self.fps) {
                *count -= 1;
                if *count == 0 {
                    wants.streams.remove(&self.fps);
                }
            }
            wants.frames_until = Instant::now() + FRAMES;
        }
        self.guest.metrics.viewers.dec();
        self.guest.wake.notify_all();
    }
}
