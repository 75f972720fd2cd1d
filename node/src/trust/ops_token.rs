//! Bearer tokens of operations ports (RFC 6750): a text in a file, known to the relay and to whoever may ask and order it.
//!
//! Not to be confused with the tokens for streams ([`Claims`](super::Claims)): it says nothing, is not signed, and is good for as long as it stands in
//! the relay's file. Errors never quote the file.

use super::files::{self, content};
use super::{TrustError, stream_keys};
use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::digest::{Digest, SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::fmt;
use std::path::Path;
use std::sync::Arc;
use zeroize::Zeroizing;

const EXPECTED: &str = "a token of an operations port, as `anabranch-relay keys ops-token` makes them";

/// Shorter ones can be guessed.
const LEAST: usize = 20;

/// Longer ones do not fit the head of a request.
const MOST: usize = 1024;

/// The token of an operations port. Clones share it; it shows itself to nobody who prints it.
#[derive(Clone)]
pub struct OpsToken {
    text: Arc<Zeroizing<String>>,
    digest: Digest,
}

impl OpsToken {
    /// Reads a token. The error quotes nothing of it.
    pub fn parse(text: &str) -> Result<OpsToken, TrustError> {
        let text = text.trim();
        // `b64token` of RFC 6750, section 2.1: what may stand in a header as it is.
        let signs = text.trim_end_matches('=');
        let right = signs.chars().all(|c| c.is_ascii_alphanumeric() || "-._~+/".contains(c));
        if !right || !(LEAST..=MOST).contains(&text.len()) {
            let reason = format!("expected one line of {LEAST} to {MOST} characters of A-Z a-z 0-9 - . _ ~ + /");
            return Err(TrustError::Malformed { what: "token of an operations port", reason });
        }
        Ok(OpsToken { digest: digest(&SHA256, text.as_bytes()), text: Arc::new(Zeroizing::new(text.to_owned())) })
    }

    /// Reads a file that its owner alone can read; any other is refused.
    pub fn load(path: &Path) -> Result<OpsToken, TrustError> {
        if files::open_to_others(path) {
            let reason = "others can read or write it: chmod 600, and think of it as known to them";
            return Err(content(path, "a file that its owner alone can read", reason));
        }
        let text = Zeroizing::new(files::read(path)?);
        OpsToken::parse(&text).map_err(|error| content(path, EXPECTED, error.to_string()))
    }

    /// Whether it is the one that was shown. How long that takes tells nothing of how much of it is right, nor of its length.
    pub fn is(&self, shown: &[u8]) -> bool {
        verify_slices_are_equal(self.digest.as_ref(), digest(&SHA256, shown).as_ref()).is_ok()
    }

    /// What a client puts into its requests: the value of `Authorization`.
    pub fn authorization(&self) -> Zeroizing<String> {
        Zeroizing::new(format!("Bearer {}", self.text.as_str()))
    }
}

impl fmt::Debug for OpsToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OpsToken(…)")
    }
}

impl PartialEq for OpsToken {
    fn eq(&self, other: &OpsToken) -> bool {
        self.is(other.text.as_bytes())
    }
}

/// Makes a new file with a token of 256 random bits.
pub fn create_ops_token(path: &Path) -> Result<(), TrustError> {
    let secret = Zeroizing::new(stream_keys::random_secret()?);
    let mut text = Zeroizing::new(URL_SAFE_NO_PAD.encode(&secret[..]));
    text.push('\n');
    files::write_new(path, &text, true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_made_is_read_again_and_no_other_is_taken_for_it() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ops.token");
        create_ops_token(&file).expect("a new file");
        let token = OpsToken::load(&file).expect("it is right");
        let text = std::fs::read_to_string(&file).expect("text").trim_end().to_owned();
        assert_eq!(text.len(), 43, "256 bits");
        assert!(token.is(text.as_bytes()));
        assert_eq!(*token.authorization(), format!("Bearer {text}"));
        for wrong in [&text[1..], &text[..42], "", &format!("{text}A")] {
            assert!(!token.is(wrong.as_bytes()), "{wrong}");
        }
        assert!(create_ops_token(&file).is_err(), "nothing that exists is overwritten");
        assert!(!format!("{token:?}").contains(&text));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("ops.token");
        create_ops_token(&file).expect("a new file");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("it is ours");
        let why = OpsToken::load(&file).expect_err("others can read it").to_string();
        assert!(why.contains("chmod 600") && why.contains("ops.token"), "{why}");
    }

    #[test]
    fn what_is_no_token_is_refused_and_not_quoted() {
        for wrong in [
            "",
            "short",
            "with a space in its middle",
            "two-lines-of-text-here\nand-another",
            "\u{e9}-not-of-these-characters",
        ] {
            let why = OpsToken::parse(wrong).expect_err(wrong).to_string();
            assert!(wrong.is_empty() || !why.contains(wrong), "{why}");
        }
        assert!(OpsToken::parse(&"x".repeat(MOST + 1)).is_err());
        assert!(OpsToken::parse("  0123456789012345678901234==\n").is_ok());
    }
}
