//! Ending on a signal: what is under way is brought to its end, and what hangs is left behind.

use core::time::Duration;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Instant;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

use crate::failure::Failure;

/// How long after a signal a command may go on: to write a frame to its end, to join a thread.
const GRACE: Duration = Duration::from_secs(2);

/// Whether the command was told to end.
#[derive(Clone, Debug, Default)]
pub(crate) struct Stop(Arc<(Mutex<Option<i32>>, Condvar)>);

impl Stop {
    /// Listens to interrupt, terminate and hang-up. Where the command has not ended two seconds after the first of
    /// them, or when a second comes, `last` runs and the process ends.
    pub(crate) fn on_signals(last: impl Fn() + Send + Sync + 'static) -> Result<Self, Failure> {
        let failed = |error: std::io::Error| Failure::Guest(format!("cannot listen to signals: {error}"));
        let mut signals = Signals::new([SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        let stop = Self::default();
        let told = stop.clone();
        let last = Arc::new(last);
        let listen = move || {
            for signal in signals.forever() {
                let end = {
                    let last = Arc::clone(&last);
                    move || {
                        last();
                        std::process::exit(128 + signal)
                    }
                };
                if told.signal().is_some() {
                    end();
                }
                told.set(signal);
                std::thread::spawn(move || {
                    std::thread::sleep(GRACE);
                    end()
                });
            }
        };
        std::thread::Builder::new().name("signals".into()).spawn(listen).map_err(failed)?;
        Ok(stop)
    }

    /// Ends the command, as a signal would.
    pub(crate) fn set(&self, signal: i32) {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(signal);
        self.0.1.notify_all();
    }

    /// The signal that came.
    pub(crate) fn signal(&self) -> Option<i32> {
        *self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn is_set(&self) -> bool {
        self.signal().is_some()
    }

    /// Sleeps until `when`, or until the end; true where the end came.
    pub(crate) fn sleep_until(&self, when: Instant) -> bool {
        let mut guard = self.0.0.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            let left = when.saturating_duration_since(Instant::now());
            if guard.is_some() || left.is_zero() {
                return guard.is_some();
            }
            guard = self.0.1.wait_timeout(guard, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
