//! Why a guest could not be surveyed.

use core::fmt;

use vgpu_perception::find::FindError;

use crate::guest::RefreshError;

/// Why a guest could not be surveyed.
#[derive(Debug)]
#[non_exhaustive]
pub enum SurveyError {
    /// Its memory could not be searched.
    Find(FindError),
    /// It cannot be read any more: its VMM has ended, or its memory is somewhere else.
    Detached(RefreshError),
    /// The caller broke the search off.
    Cancelled,
}

impl From<FindError> for SurveyError {
    fn from(error: FindError) -> Self {
        Self::Find(error)
    }
}

impl fmt::Display for SurveyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Find(error) => write!(f, "{error}"),
            Self::Detached(error) => write!(f, "{error}"),
            Self::Cancelled => f.write_str("the caller broke the search off"),
        }
    }
}

impl core::error::Error for SurveyError {}
