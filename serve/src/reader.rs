//! The thread of a guest: attaches, follows the producer, copies frames while somebody wants them, and sleeps while
//! nobody does.

use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use vgpu_perception_host::Ram;
use vgpu_perception_view::{Condition, Counters, Feed, Taken};

use crate::guest::{Order, Shown};
use crate::guests::Attach;
use crate::shot::{Pool, Shot};

/// How soon a writer that was met at its work is asked again.
const RETRY: Duration = Duration::from_millis(2);
/// Stills are asked for one by one; none is older than this.
const IDLE_TICK: Duration = Duration::from_millis(250);
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

/// How many guests are searched at a time: a search keeps a processor busy.
#[derive(Debug)]
pub(crate) struct Searches {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Searches {
    pub(crate) fn new(most: usize) -> Self {
        Self { free: Mutex::new(most.max(1)), changed: Condvar::new() }
    }

    fn run<T>(&self, search: impl FnOnce() -> T) -> T {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        while *free == 0 {
            free = self.changed.wait(free).unwrap_or_else(PoisonError::into_inner);
        }
        *free -= 1;
        drop(free);
        let result = search();
        *self.free.lock().unwrap_or_else(PoisonError::into_inner) += 1;
        self.changed.notify_one();
        result
    }
}

pub(crate) struct Reader {
    pub(crate) guest: Arc<Shown>,
    pub(crate) attach: Attach,
    pub(crate) searches: Arc<Searches>,
    /// Tells the tags of this server from those of another one at the same address.
    pub(crate) boot: u32,
}

/// What is attached, and how often that was done.
struct State {
    feed: Option<Feed<Ram>>,
    attached: u64,
    pool: Pool,
    counted: Counters,
    next_try: Instant,
    pause: Duration,
}

impl Reader {
    /// Reads until the guest is retired.
    pub(crate) fn run(self) {
        let mut state = State {
            feed: None,
            attached: 0,
            pool: Pool::default(),
            counted: Counters::default(),
            next_try: Instant::now(),
            pause: Duration::from_millis(500),
        };
        let mut due = Instant::now();
        loop {
            let order = self.guest.order();
            if order.retired {
                self.guest.show(None);
                return;
            }
            if !order.frames && self.guest.shows() {
                self.guest.show(None);
                state.pool.clear();
                if let Some(feed) = &mut state.feed {
                    feed.pause();
                }
            }
            if !order.state {
                self.guest.set_facts(|facts| {
                    facts.state = "idle";
                    facts.detail = "nobody looks".into();
                });
                self.guest.metrics.live.set(0);
                self.guest.rest(order, None);
                continue;
            }
            let until = self.turn(&mut state, order, &mut due);
            self.guest.rest(order, Some(until));
        }
    }

    /// One turn; says when the next one is due.
    fn turn(&self, state: &mut State, order: Order, due: &mut Instant) -> Instant {
        let Some(feed) = &mut state.feed else { return self.attach(state, order) };
        let now = Instant::now();
        let step = if *feed.condition() == Condition::Live {
            feed.step(now).1
        } else {
            self.searches.run(|| feed.step(now)).1
        };
        let mut taken = Taken::Nothing;
        let mut again = None;
        let ticks = order.fps.is_some() && *due <= Instant::now();
        if ticks || order.pending {
            taken = feed.take();
            if taken == Taken::New {
                self.publish(state);
            }
        }
        let Some(feed) = &mut state.feed else { return step };
        let live = *feed.condition() == Condition::Live;
        if taken == Taken::Nothing && live && (ticks || order.pending) {
            again = Some(Instant::now() + RETRY);
        }
        if taken == Taken::Same && !self.guest.shows() {
            feed.again();
            again = Some(Instant::now());
            taken = Taken::Nothing;
        }
        if !live && self.guest.shows() {
            // Nobody vouches for it any more.
            self.guest.show(None);
            feed.again();
        }
        self.tell(state);
        let Some(feed) = &state.feed else { return step };
        match feed.condition() {
            // A search is under way: whoever asked waits for it.
            Condition::Searching => {}
            Condition::Live if taken == Taken::Nothing => {}
            Condition::Detached(_) => {
                self.guest.answer(order.asked);
                // Under its name there may be another process by now.
                state.feed = None;
                state.next_try = Instant::now() + state.pause;
                return state.next_try;
            }
            _ => self.guest.answer(order.asked),
        }
        if ticks {
            let tick = Duration::from_secs(1) / order.fps.unwrap_or(1);
            *due = (*due + tick).max(Instant::now());
        }
        let tick = if order.fps.is_some() { *due } else { Instant::now() + IDLE_TICK };
        // Without a stream frames are copied only when one is asked for.
        let frames = if order.fps.is_some() { tick } else { step };
        step.min(frames).min(again.unwrap_or(step))
    }

    fn attach(&self, state: &mut State, order: Order) -> Instant {
        let now = Instant::now();
        if now < state.next_try {
            // Why there is nothing is known already.
            self.guest.answer(order.asked);
            return state.next_try;
        }
        match (self.attach)() {
            Ok(guest) => {
                state.feed = Some(Feed::new(guest));
                state.attached += 1;
                state.counted = Counters::default();
                state.pause = Duration::from_millis(500);
                self.guest.set_facts(|facts| {
                    facts.state = "searching";
                    facts.detail = "looking for a producer".into();
                });
                now
            }
            Err(why) => {
                self.guest.set_facts(|facts| {
                    facts.state = "not attached";
                    facts.detail = why;
                });
                self.guest.metrics.live.set(0);
                self.guest.answer(order.asked);
                state.next_try = now + state.pause;
                state.pause = (state.pause * 2).min(LONGEST_PAUSE);
                state.next_try
            }
        }
    }

    fn publish(&self, state: &mut State) {
        let Some(feed) = &mut state.feed else { return };
        let epoch = feed.run_epoch();
        let sessions = feed.counters().sessions;
        self.guest.metrics.copies.observe(feed.copied_in().as_secs_f64());
        let Some((info, pixels)) = feed.exchange(state.pool.take()) else { return };
        let tag = format!("\"{:08x}.{}.{sessions}.{epoch}.{}\"", self.boot, state.attached, info.desc.frame_id);
        self.guest.set_facts(|facts| {
            (facts.width, facts.height, facts.frame_id) = (info.desc.width, info.desc.height, info.desc.frame_id);
        });
        self.guest.show(Some(Arc::new(Shot::new(info, tag, pixels, state.pool.clone()))));
    }

    /// Facts and metrics follow what the feed counted.
    fn tell(&self, state: &mut State) {
        let Some(feed) = &state.feed else { return };
        let (now, before) = (*feed.counters(), state.counted);
        state.counted = now;
        let metrics = &self.guest.metrics;
        metrics.frames.inc_by(now.frames - before.frames);
        metrics.missed.inc_by(now.missed - before.missed);
        metrics.retries.inc_by(now.retries - before.retries);
        metrics.live.set(i64::from(*feed.condition() == Condition::Live));
        metrics.epoch.set(i64::from(feed.run_epoch()));
        let condition = feed.condition();
        self.guest.set_facts(|facts| {
            if facts.state != condition.word() || *condition != Condition::Live {
                facts.state = condition.word();
                facts.detail = condition.to_string();
            }
            facts.run_epoch = feed.run_epoch();
            facts.frames += now.frames - before.frames;
            facts.missed += now.missed - before.missed;
            facts.retries += now.retries - before.retries;
        });
    }
}
