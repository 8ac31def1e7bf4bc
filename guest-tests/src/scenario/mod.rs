//! What is done with a guest.

pub(crate) mod advice;
pub(crate) mod chaos;
pub(crate) mod dumps;
pub(crate) mod embed;
pub(crate) mod forge;
pub(crate) mod hold;
pub(crate) mod libvirt;
pub(crate) mod life;
pub(crate) mod monitors;
pub(crate) mod plugged;
pub(crate) mod readme;
pub(crate) mod restarts;
pub(crate) mod soak;
pub(crate) mod speed;
pub(crate) mod translations;
pub(crate) mod watch;
pub(crate) mod ways;

/// How long a scenario may take that has no end of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    /// A minute at most.
    Short,
    /// As long as it is meant to be.
    Full,
}

/// A number from the environment.
pub(crate) fn asked(name: &str, usual: u64) -> u64 {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(usual)
}

/// Ends the scenario with these words unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+).into());
        }
    };
}
pub(crate) use ensure;
