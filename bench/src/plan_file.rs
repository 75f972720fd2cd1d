//! Plans are TOML files, checked before anything starts.

use node::exit::{Exit, Failure};
use serde::de::DeserializeOwned;
use std::path::{Path, PathBuf};

/// Why a plan could not be used.
#[derive(Debug, thiserror::Error)]
pub enum PlanError {
    /// The file could not be read.
    #[error("{path}: {error}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What went wrong.
        error: std::io::Error,
    },
    /// It is no plan.
    #[error("{path}: {error}")]
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        error: toml::de::Error,
    },
    /// It reads, and makes no sense.
    #[error("{path}: {reason}")]
    Nonsense {
        /// The file.
        path: PathBuf,
        /// Which field, and what was expected.
        reason: String,
    },
}

impl From<PlanError> for Failure {
    fn from(error: PlanError) -> Failure {
        let exit = if matches!(error, PlanError::Read { .. }) { Exit::NoInput } else { Exit::Config };
        Failure::new(exit, error.to_string())
    }
}

/// Reads a plan, and lets it check itself: what is wrong names the field and what was expected.
pub fn load<P: DeserializeOwned>(path: &Path, check: impl FnOnce(&P) -> Result<(), String>) -> Result<P, PlanError> {
    let text = std::fs::read_to_string(path).map_err(|error| PlanError::Read { path: path.to_owned(), error })?;
    let plan = toml::from_str(&text).map_err(|error| PlanError::Syntax { path: path.to_owned(), error })?;
    check(&plan).map_err(|reason| PlanError::Nonsense { path: path.to_owned(), reason })?;
    Ok(plan)
}
