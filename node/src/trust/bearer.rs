//! The tokens that a source or sink shows.

use super::files::{self, FileState, content};
use super::{LOOK_EVERY, TrustError};
use std::path::{Path, PathBuf};

/// Tokens of a file, which is followed, and beside it some that stay (of the environment, of an embedding program).
#[derive(Debug)]
pub struct TokenFile {
    path: Option<PathBuf>,
    fixed: Vec<String>,
    tokens: Vec<String>,
    seen: Option<FileState>,
}

impl TokenFile {
    /// Reads the file, if there is one. `fixed` are texts of one or several tokens each.
    pub fn open(path: Option<&Path>, fixed: impl IntoIterator<Item = String>) -> Result<TokenFile, TrustError> {
        let fixed: Vec<String> = fixed.into_iter().flat_map(|text| words(&text)).collect();
        let mut file = TokenFile { path: path.map(Path::to_owned), fixed, tokens: Vec::new(), seen: None };
        file.seen = path.and_then(FileState::of);
        file.tokens = file.read()?;
        Ok(file)
    }

    /// All of them.
    pub fn tokens(&self) -> &[String] {
        &self.tokens
    }

    /// Returns when the file has come to hold other tokens. One that cannot be read, or holds none, is logged once, and those before stay.
    pub async fn changed(&mut self) -> Vec<String> {
        loop {
            tokio::time::sleep(LOOK_EVERY).await;
            let state = self.path.as_deref().and_then(FileState::of);
            if state == self.seen {
                continue;
            }
            self.seen = state;
            match self.read() {
                Ok(tokens) if tokens == self.tokens => {}
                Ok(tokens) => {
                    self.tokens.clone_from(&tokens);
                    return tokens;
                }
                Err(error) => tracing::error!(%error, "the tokens are not read again: those before stay"),
            }
        }
    }

    fn read(&self) -> Result<Vec<String>, TrustError> {
        let mut tokens = self.fixed.clone();
        if let Some(path) = &self.path {
            let found = words(&files::read(path)?);
            if found.is_empty() {
                return Err(content(path, "tokens (abt1.…), a line each", "it holds none"));
            }
            tokens.extend(found);
        }
        Ok(tokens)
    }
}

/// What begins with `#` says nothing.
fn words(text: &str) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines.flat_map(str::split_whitespace).map(str::to_owned).collect()
}
