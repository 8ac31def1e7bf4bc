//! What a person sees while something takes long.

use core::time::Duration;
use std::io::IsTerminal;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;

use indicatif::{ProgressBar, ProgressStyle};

use crate::verbose;

/// What is done within this time needs no word.
const AFTER: Duration = Duration::from_millis(500);

/// How often the spinner turns.
const TURN: Duration = Duration::from_millis(100);

/// One line on standard error about what is under way, from half a second on, until this is dropped.
///
/// It is shown on a terminal only: a log wants no line that is drawn again and again. `-v` says each step instead.
#[derive(Debug)]
pub(crate) struct Progress {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    text: String,
    done: bool,
}

impl Progress {
    pub(crate) fn start(text: impl Into<String>) -> Self {
        let shared = Arc::new(Shared::default());
        shared.lock().text = text.into();
        let wanted = std::io::stderr().is_terminal() && !verbose::is_enabled();
        let of_thread = Arc::clone(&shared);
        // Without a thread there is no spinner, and nothing else is lost.
        let thread =
            wanted.then(|| std::thread::Builder::new().name("progress".into()).spawn(move || of_thread.show()));
        Self { shared, thread: thread.and_then(Result::ok) }
    }

    /// What is under way now. The words are made only where somebody sees them.
    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.thread.is_some() {
            self.shared.lock().text = what();
        }
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits; true where there is nothing to show any more.
    fn is_done_within(&self, time: Duration) -> bool {
        let waited = self.changed.wait_timeout_while(self.lock(), time, |state| !state.done);
        waited.unwrap_or_else(PoisonError::into_inner).0.done
    }

    fn show(&self) {
        if self.is_done_within(AFTER) {
            return;
        }
        let style = ProgressStyle::with_template("{spinner} {elapsed} {wide_msg}")
            .unwrap_or_else(|_| ProgressStyle::default_spinner());
        let bar = ProgressBar::new_spinner().with_style(style).with_elapsed(AFTER);
        loop {
            bar.set_message(self.lock().text.clone());
            bar.tick();
            if self.is_done_within(TURN) {
                break;
            }
        }
        bar.finish_and_clear();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.shared.lock().done = true;
        self.shared.changed.notify_all();
        self.thread.take().map(JoinHandle::join);
    }
}
