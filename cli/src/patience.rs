//! Waiting for a guest that is not up yet, or whose producer has not started.

use core::time::Duration;
use std::time::Instant;

use crate::commands::Report;
use crate::failure::Failure;

/// How long to sleep between two tries: each may search all of the guest's RAM.
const PAUSE: Duration = Duration::from_millis(500);

/// Runs `command` again while there is nothing or the guest cannot be read, for `seconds` at most.
///
/// What is waited for is said on standard error, once for each reason.
pub(crate) fn patiently(seconds: u64, command: impl Fn() -> Result<Report, Failure>) -> Result<Report, Failure> {
    let begun = Instant::now();
    let deadline = begun + Duration::from_secs(seconds);
    let mut said = None;
    loop {
        let result = command();
        let why = match &result {
            Ok(report) => report.nothing.clone(),
            Err(Failure::Nothing(why) | Failure::Guest(why)) => Some(why.clone()),
            Err(_) => None,
        };
        let Some(why) = why else { return result };
        let now = Instant::now();
        if now + PAUSE > deadline {
            return result;
        }
        if said.as_ref() != Some(&why) {
            eprintln!("vgpu: waiting for up to {} s more: {why}", (deadline - now).as_secs_f64().ceil());
            said = Some(why);
        }
        std::thread::sleep(PAUSE);
    }
}
