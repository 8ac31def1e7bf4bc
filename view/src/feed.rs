//! A producer's frames, one after another, through restarts and reboots, with what was missed on the way.

use core::fmt;
use core::time::Duration;
use std::time::Instant;

use vgpu_perception::process::guest::GuestPaging;
use vgpu_perception::region::{
    CursorSnapshot, FrameInfo, FrameSink, GeometrySnapshot, ReadError, Sample, Skip, StatusSnapshot, StreamError,
};
use vgpu_perception::scan::Candidate;
use vgpu_perception::{NextUse, PhysRead, abi};
use vgpu_perception_host::{Event, FrameBuffer, Guest, Live, SurveyError, Watch};

use crate::picture::Picture;

/// Bytes of a frame that are on their way at a time in a pass: within the second level of cache.
const BLOCK: usize = 128 << 10;

/// What was counted since the feed began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Counters {
    /// Frames that were copied.
    pub frames: u64,
    /// Frames that the producer published between two that were copied. Pauses of the viewer are not counted.
    pub missed: u64,
    /// Polls that met the producer at its work and gave nothing.
    pub retries: u64,
    /// Producers that were found, and their new sessions.
    pub sessions: u64,
}

/// How it stands with the producer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Condition {
    /// It is being looked for.
    #[default]
    Searching,
    /// It lives: its heartbeat advances.
    Live,
    /// No process of the guest has a region, or none whose heartbeat advances.
    NoProducer,
    /// Its heartbeat stood still: it has ended, or the guest is paused.
    Stale,
    /// Its pages are gone: it has ended, or the guest has rebooted.
    Gone(String),
    /// The guest's memory cannot be searched now.
    Unreadable(String),
    /// The guest's process has ended, or its memory is somewhere else: attach again.
    Detached(String),
}

impl Condition {
    /// One word, the same for every cause.
    #[must_use]
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Searching => "searching",
            Self::Live => "live",
            Self::NoProducer => "no producer",
            Self::Stale => "stale",
            Self::Gone(_) => "gone",
            Self::Unreadable(_) => "unreadable",
            Self::Detached(_) => "detached",
        }
    }
}

impl fmt::Display for Condition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Searching => f.write_str("looking for a producer"),
            Self::Live => f.write_str("live"),
            Self::NoProducer => f.write_str("no producer: is the capture program running in the guest?"),
            Self::Stale => f.write_str("the heartbeat stands still: the producer has ended, or the guest is paused"),
            Self::Gone(why) => write!(f, "the producer is gone: {why}"),
            Self::Unreadable(why) | Self::Detached(why) => f.write_str(why),
        }
    }
}

/// What an attempt to take a frame gave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Taken {
    /// A new frame is in the feed.
    New,
    /// The one that was taken last is still the latest.
    Same,
    /// None now: nobody lives, nothing was published, or the producer was writing at every try.
    Nothing,
}

/// Follows the best producer of a guest and holds its latest frame.
///
/// The caller sleeps: [`step`](Self::step) says when it wants to be called again, [`take`](Self::take) is called as
/// often as frames are wanted. Its memory grows to the largest frame that was seen, 33 MB at most.
pub struct Feed<M> {
    watch: Watch<M>,
    due: Instant,
    pixels: FrameBuffer,
    /// What a pass goes through.
    block: Vec<u8>,
    frame: Option<FrameInfo>,
    /// The latest frame is whole in the caller's hands.
    given: bool,
    counters: Counters,
    condition: Condition,
    run_epoch: u32,
    /// Since when the frame that is being taken is known to be there.
    seen: Option<Instant>,
    copied_in: Duration,
    paused: bool,
}

impl<M> fmt::Debug for Feed<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { frame, counters, condition, .. } = self;
        f.debug_struct("Feed")
            .field("frame", frame)
            .field("counters", counters)
            .field("condition", condition)
            .finish_non_exhaustive()
    }
}

impl<M: PhysRead> Feed<M> {
    /// A feed of the best producer of `guest`.
    #[must_use]
    pub fn new(guest: Guest<M>) -> Self {
        Self {
            watch: Watch::new(guest),
            due: Instant::now(),
            pixels: FrameBuffer::default(),
            block: Vec::new(),
            frame: None,
            given: false,
            counters: Counters::default(),
            condition: Condition::Searching,
            run_epoch: 0,
            seen: None,
            copied_in: Duration::ZERO,
            paused: false,
        }
    }

    /// Takes only producers for which `filter` holds.
    #[must_use]
    pub fn only(mut self, filter: impl Fn(&Candidate<GuestPaging>) -> bool + Send + 'static) -> Self {
        self.watch = self.watch.only(filter);
        self
    }

    /// Looks after the producer, where that is due, and says when it is due again. It can take as long as a search of
    /// the guest's memory does. True where the condition changed, or a new session began.
    pub fn step(&mut self, now: Instant) -> (bool, Instant) {
        if now < self.due {
            return (false, self.due);
        }
        let (event, due) = self.watch.step(now);
        self.due = due;
        let before = self.condition.word();
        match event {
            Event::Found => {
                self.counters.sessions += 1;
                if let Some(live) = self.watch.live() {
                    live.set_copy(NextUse::ReadSoon);
                    self.run_epoch = live.proof().map_or(0, |pulse| pulse.run_epoch);
                }
                self.condition = Condition::Live;
                return (true, due);
            }
            Event::Restarted { run_epoch } => {
                self.counters.sessions += 1;
                self.run_epoch = run_epoch;
                self.condition = Condition::Live;
                return (true, due);
            }
            Event::NoCandidate => self.condition = Condition::NoProducer,
            Event::Gone(error) => self.condition = Condition::Gone(error.to_string()),
            Event::Stale => self.condition = Condition::Stale,
            Event::Failed(SurveyError::Detached(error)) => self.condition = Condition::Detached(error.to_string()),
            Event::Failed(error) => self.condition = Condition::Unreadable(error.to_string()),
            _ => {}
        }
        (self.condition.word() != before, due)
    }

    /// Takes the latest frame, if it is another than the one that is held.
    pub fn take(&mut self) -> Taken {
        self.attempt(|live, pixels| live.frame(pixels))
    }

    /// Passes the latest frame through `sink`, if it is another than the one that was taken last. It is not held as
    /// pixels then.
    ///
    /// # Errors
    /// What the sink refuses: [`again`](Self::again) and [`take`](Self::take) give the frame as it is.
    pub fn pass<S: FrameSink>(&mut self, sink: &mut S) -> Result<Taken, S::Refusal> {
        let mut block = core::mem::take(&mut self.block);
        block.resize(BLOCK, 0);
        let mut refused = None;
        let taken = self.attempt(|live, _| match live.reader_mut().stream_frame(&mut block, sink) {
            Ok(sample) => Ok(sample),
            Err(StreamError::Read(error)) => Err(error),
            Err(StreamError::Refused(refusal)) => {
                refused = Some(refusal);
                Ok(Sample::Skip(Skip::NoFrame))
            }
            // No two rows are longer than the block.
            Err(_) => Ok(Sample::Skip(Skip::NoFrame)),
        });
        self.block = block;
        if taken == Taken::New {
            self.frame = None;
            self.given = true;
        }
        refused.map_or(Ok(taken), Err)
    }

    fn attempt(
        &mut self,
        mut read: impl FnMut(&mut Live<M>, &mut [u8]) -> Result<Sample<FrameInfo>, ReadError>,
    ) -> Taken {
        let begun = Instant::now();
        // Once more with more memory, and once more in a new session.
        for _ in 0..3 {
            let Some(live) = self.watch.live() else { return Taken::Nothing };
            match read(live, &mut self.pixels) {
                Ok(Sample::Fresh(info)) => {
                    self.copied_in = self.seen.take().unwrap_or(begun).elapsed();
                    self.counters.frames += 1;
                    if !core::mem::take(&mut self.paused) {
                        self.counters.missed += info.missed;
                    }
                    self.frame = Some(info);
                    self.given = false;
                    return Taken::New;
                }
                Ok(Sample::Skip(Skip::Unchanged { .. })) => {
                    return if self.frame.is_some() || self.given { Taken::Same } else { Taken::Nothing };
                }
                Ok(Sample::Skip(Skip::TooSmall { needed, .. })) if needed <= abi::MAX_FRAME_BYTES => {
                    // Room for the frame changes what is held: until a whole one is there, none is.
                    self.frame = None;
                    self.pixels.resize(usize::try_from(needed).unwrap_or(0));
                }
                // A new session: the newest picture is wanted, whatever its number.
                Ok(Sample::Skip(Skip::Older { .. })) => live.forget_frames(),
                Ok(Sample::Skip(Skip::Busy { .. } | Skip::Torn { .. } | Skip::Moved)) => {
                    self.counters.retries += 1;
                    self.frame = None;
                    self.seen.get_or_insert(begun);
                    return Taken::Nothing;
                }
                Ok(Sample::Skip(_)) => return Taken::Nothing,
                Err(error) => {
                    // The next step finds out what became of the producer, and it is due now.
                    self.frame = None;
                    self.seen = None;
                    self.due = begun;
                    self.condition = Condition::Gone(error.to_string());
                    return Taken::Nothing;
                }
            }
        }
        Taken::Nothing
    }

    /// The frame that is held.
    #[must_use]
    pub fn picture(&self) -> Option<Picture<'_>> {
        let info = self.frame.as_ref()?;
        Picture::new(info.desc.width, info.desc.height, self.pixels.get(..info.bytes)?).ok()
    }

    /// What is known of the frame that is held.
    #[must_use]
    pub const fn frame(&self) -> Option<&FrameInfo> {
        self.frame.as_ref()
    }

    /// Gives the pixels of the frame that is held away, and takes `other` memory for the next one.
    pub fn exchange(&mut self, other: FrameBuffer) -> Option<(FrameInfo, FrameBuffer)> {
        let info = self.frame.take()?;
        let mut pixels = core::mem::replace(&mut self.pixels, other);
        pixels.resize(info.bytes.min(pixels.len()));
        self.given = true;
        Some((info, pixels))
    }

    /// Says that nobody looks for a while: what is published meanwhile was not missed. Gives the frame's memory back.
    pub fn pause(&mut self) {
        self.paused = true;
        self.frame = None;
        self.given = false;
        self.seen = None;
        self.pixels = FrameBuffer::default();
        if let Some(live) = self.watch.live() {
            live.forget_frames();
        }
    }

    /// Wants the latest frame anew, also if it was taken before.
    pub fn again(&mut self) {
        self.paused = true;
        if let Some(live) = self.watch.live() {
            live.forget_frames();
        }
    }

    /// What was counted.
    #[must_use]
    pub const fn counters(&self) -> &Counters {
        &self.counters
    }

    /// How it stands with the producer.
    #[must_use]
    pub const fn condition(&self) -> &Condition {
        &self.condition
    }

    /// The producer's session; 0 before one was found.
    #[must_use]
    pub const fn run_epoch(&self) -> u32 {
        self.run_epoch
    }

    /// How long the last frame took from when it was first seen here until it was copied, by the host's clock.
    #[must_use]
    pub const fn copied_in(&self) -> Duration {
        self.copied_in
    }

    /// The cursor, where it can be read now.
    pub fn cursor(&mut self) -> Option<CursorSnapshot> {
        self.watch.live()?.cursor().ok()?.fresh()
    }

    /// The display's geometry, where it can be read now.
    pub fn geometry(&mut self) -> Option<GeometrySnapshot> {
        self.watch.live()?.geometry().ok()?.fresh()
    }

    /// What the producer is doing, where that can be read now.
    pub fn status(&mut self) -> Option<StatusSnapshot> {
        self.watch.live()?.status().ok()?.fresh()
    }

    /// The guest.
    #[must_use]
    pub fn guest(&self) -> &Guest<M> {
        self.watch.guest()
    }
}
