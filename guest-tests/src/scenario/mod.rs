//! What is done with a guest.

pub(crate) mod chaos;
pub(crate) mod hold;
pub(crate) mod life;
pub(crate) mod soak;
pub(crate) mod translations;
pub(crate) mod watch;

/// Ends the scenario with these words unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($words:tt)+) => {
        if !$condition {
            return Err(format!($($words)+).into());
        }
    };
}
pub(crate) use ensure;
