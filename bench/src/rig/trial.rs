//! The authority of an overlay that lives in one process.

use node::trust::{Credentials, Direction};

/// An authority in memory, and what it issues.
#[derive(Debug)]
pub struct Trial {}

impl Trial {
    /// A fresh authority.
    pub fn new() -> Trial {
        todo!()
    }

    /// What a relay needs to be.
    pub fn relay(&self, name: &str) -> relay::Identity {
        let _ = name;
        todo!()
    }

    /// What a source shows.
    pub fn source(&self, name: &str) -> Credentials {
        let _ = name;
        todo!()
    }

    /// What a sink shows, and a token to watch anything.
    pub fn sink(&self, name: &str) -> sink::Identity {
        let _ = name;
        todo!()
    }

    /// A token to publish the streams of a pattern.
    pub fn publish_token(&self, pattern: &str) -> String {
        self.token(pattern, Direction::Publish)
    }

    fn token(&self, pattern: &str, direction: Direction) -> String {
        let _ = (pattern, direction);
        todo!()
    }
}
