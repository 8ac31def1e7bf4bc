//! Waiting for a guest that is not up yet, or whose producer has not started.

use core::time::Duration;
use std::time::Instant;

use crate::commands::Report;
use crate::failure::Failure;

/// How long to sleep between two tries: each may search all of the guest's RAM.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs `command` again while there is nothing or the guest cannot be read, for `seconds` at most.
pub(crate) fn patiently(seconds: u64, command: impl Fn() -> Result<Report, Failure>) -> Result<Report, Failure> {
    let deadline = Instant::now() + Duration::from_secs(seconds);
    loop {
        let result = command();
        let may_come = match &result {
            Ok(report) => report.nothing.is_some(),
            Err(failure) => matches!(failure, Failure::Nothing(_) | Failure::Guest(_)),
        };
        if !may_come || Instant::now() + PAUSE > deadline {
            return result;
        }
        std::thread::sleep(PAUSE);
    }
}
