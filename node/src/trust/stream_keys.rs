//! Files of payload keys: the secrets that a stream is sealed with from source to sink ([`crate::payload`]).
//!
//! ```text
//! # comment
//! use 2
//! epoch 1 abk1.<32 bytes in base64url>
//! epoch 2 abk1.…
//! ```
//!
//! Sources seal with the epoch in use, sinks open with any. A rotation therefore has steps, each followed by a copy of the file, and at no moment does a
//! source seal with what a sink does not have yet: [`rotate`] adds an epoch that nobody seals with, [`switch`] puts it in use, [`retire`] lets
//! go of the others. Errors never quote the file.

use super::files::{self, FileState, content};
use super::{TrustError, hex};
use crate::payload::Secret;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::BTreeMap;
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{Signal, SignalKind, signal};
use zeroize::Zeroizing;

const PREFIX: &str = "abk1.";
const EXPECTED: &str = "payload keys, as `anabranch-relay keys stream-key` makes them";
const HEAD: &str = "\
# Payload keys of Anabranch. Whoever has this file can read, and forge, the streams sealed with it: mode 0600, on sources and sinks alone.
# Made and changed by `anabranch-relay keys stream-key`; sources seal with the epoch in use, sinks open with any.
";

/// The secrets of a stream, by epoch. Clones share them.
#[derive(Clone, PartialEq, Eq)]
pub struct StreamKeys(Arc<Epochs>);

#[derive(Clone, PartialEq, Eq)]
struct Epochs {
    in_use: u8,
    /// In the order of the file, the newest last; never empty, and never without the one in use.
    secrets: Vec<(u8, Secret)>,
}

impl StreamKeys {
    /// One epoch, with this secret.
    pub fn single(epoch: u8, secret: Secret) -> StreamKeys {
        StreamKeys(Arc::new(Epochs { in_use: epoch, secrets: vec![(epoch, secret)] }))
    }

    /// Reads the text of a key file. The error names the line, and quotes nothing of it. Never panics, whatever the text.
    pub fn parse(text: &str) -> Result<StreamKeys, TrustError> {
        let (mut in_use, mut secrets) = (None, Vec::<(u8, Secret)>::new());
        for (index, line) in text.lines().enumerate() {
            let wrong = |reason: &str| malformed(format!("line {}: {reason}", index + 1));
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                [] => {}
                [first, ..] if first.starts_with('#') => {}
                ["use", epoch] if in_use.is_none() => {
                    in_use = Some(epoch.parse::<u8>().map_err(|_| wrong("expected an epoch from 0 to 255"))?);
                }
                ["epoch", epoch, secret] => {
                    let epoch = epoch.parse::<u8>().map_err(|_| wrong("expected an epoch from 0 to 255"))?;
                    if secrets.iter().any(|(other, _)| *other == epoch) {
                        return Err(wrong("this epoch is there twice"));
                    }
                    let secret = secret_of(secret).ok_or_else(|| wrong("expected abk1. and 32 bytes in base64url"))?;
                    secrets.push((epoch, secret));
                }
                _ => return Err(wrong("expected `use EPOCH`, once, or `epoch EPOCH abk1.…`")),
            }
        }
        let in_use = in_use.ok_or_else(|| malformed("expected a line `use EPOCH`"))?;
        if !secrets.iter().any(|(epoch, _)| *epoch == in_use) {
            return Err(malformed(format!("epoch {in_use} is in use and not there")));
        }
        Ok(StreamKeys(Arc::new(Epochs { in_use, secrets })))
    }

    /// Reads a key file that its owner alone can read; any other is refused.
    pub fn load(path: &Path) -> Result<StreamKeys, TrustError> {
        if files::open_to_others(path) {
            let reason = "others can read or write it: chmod 600, and think of it as known to them";
            return Err(content(path, "a file that its owner alone can read", reason));
        }
        let text = Zeroizing::new(files::read(path)?);
        StreamKeys::parse(&text).map_err(|error| content(path, EXPECTED, error.to_string()))
    }

    /// The epoch that sources seal with.
    pub fn in_use(&self) -> u8 {
        self.0.in_use
    }

    /// All epochs, the oldest first.
    pub fn epochs(&self) -> impl Iterator<Item = u8> + '_ {
        self.0.secrets.iter().map(|(epoch, _)| *epoch)
    }

    pub(crate) fn secret(&self, epoch: u8) -> Option<&Secret> {
        self.0.secrets.iter().find(|(other, _)| *other == epoch).map(|(_, secret)| secret)
    }

    /// The secret of the epoch in use.
    pub(crate) fn secret_in_use(&self) -> &Secret {
        self.secret(self.0.in_use).expect("both constructors see to it that the epoch in use is there")
    }

    fn text(&self) -> Zeroizing<String> {
        let mut text = Zeroizing::new(format!("{HEAD}use {}\n", self.0.in_use));
        for (epoch, secret) in &self.0.secrets {
            let encoded = Zeroizing::new(URL_SAFE_NO_PAD.encode(secret.bytes()));
            text.push_str(&format!("epoch {epoch} {PREFIX}"));
            text.push_str(&encoded);
            text.push('\n');
        }
        text
    }

    /// In words: each epoch with a fingerprint of its secret, by which files on two machines are compared.
    pub(super) fn describe(&self) -> String {
        let mut said = "payload keys".to_owned();
        for (epoch, secret) in &self.0.secrets {
            let print = digest(&SHA256, &[b"anabranch payload key print v1\0", &secret.bytes()[..]].concat());
            let mark = if *epoch == self.0.in_use { ", in use" } else { "" };
            said += &format!("\nepoch {epoch}{mark}, fingerprint {}", hex(&print.as_ref()[..8]));
        }
        said
    }
}

/// What a step of a rotation has come to: the epochs of the file, the oldest first, and the one in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rotated {
    /// All epochs, the oldest first.
    pub epochs: Vec<u8>,
    /// The one that sources seal with.
    pub in_use: u8,
}

/// Makes a new file with one epoch, in use, and the secret `random` draws.
pub fn create(path: &Path, random: impl FnOnce() -> Result<[u8; 32], TrustError>) -> Result<Rotated, TrustError> {
    let keys = StreamKeys::single(1, Secret::new(random()?));
    files::write_new(path, &keys.text(), true)?;
    Ok(keys.rotated())
}

/// First step: adds an epoch that nobody seals with yet. An error where one is waiting already.
pub fn rotate(path: &Path, random: impl FnOnce() -> Result<[u8; 32], TrustError>) -> Result<Rotated, TrustError> {
    change(path, |epochs| {
        let newest = epochs.newest();
        if newest != epochs.in_use {
            return Err(format!("epoch {newest} waits already: copy the file to every sink, then `switch`"));
        }
        let taken = |epoch: &u8| epochs.secrets.iter().any(|(other, _)| other == epoch);
        let next = (1..=u8::MAX).map(|step| newest.wrapping_add(step)).find(|epoch| !taken(epoch));
        let next = next.ok_or("all 256 epochs are taken: `retire` those that are no longer used")?;
        epochs.secrets.push((next, Secret::new(random().map_err(|error| error.to_string())?)));
        Ok(())
    })
}

/// Second step: sources seal with the newest epoch. An error where they do already.
pub fn switch(path: &Path) -> Result<Rotated, TrustError> {
    change(path, |epochs| match epochs.newest() {
        newest if newest == epochs.in_use => Err(format!("epoch {newest} is in use already: `rotate` adds another")),
        newest => {
            epochs.in_use = newest;
            Ok(())
        }
    })
}

/// Third step: lets go of every epoch but the one in use.
pub fn retire(path: &Path) -> Result<Rotated, TrustError> {
    change(path, |epochs| {
        let newest = epochs.newest();
        if newest != epochs.in_use {
            return Err(format!("epoch {newest} is not in use yet: `switch` first"));
        }
        epochs.secrets.retain(|(epoch, _)| *epoch == newest);
        Ok(())
    })
}

impl Epochs {
    fn newest(&self) -> u8 {
        self.secrets.last().map_or(self.in_use, |(epoch, _)| *epoch)
    }
}

impl StreamKeys {
    fn rotated(&self) -> Rotated {
        Rotated { epochs: self.epochs().collect(), in_use: self.in_use() }
    }
}

fn change(path: &Path, change: impl FnOnce(&mut Epochs) -> Result<(), String>) -> Result<Rotated, TrustError> {
    let mut keys = StreamKeys::load(path)?;
    change(Arc::make_mut(&mut keys.0)).map_err(|reason| content(path, "another state of the rotation", reason))?;
    files::replace(path, &keys.text(), true)?;
    Ok(keys.rotated())
}

/// Whether a text is to be read as payload keys: its first word says so.
pub(super) fn is_file_of_keys(text: &str) -> bool {
    let mut lines = text.lines().map(str::trim_start).filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines.next().is_some_and(|line| line.starts_with("use ") || line.starts_with("epoch "))
}

fn secret_of(text: &str) -> Option<Secret> {
    let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text.strip_prefix(PREFIX)?).ok()?);
    Some(Secret::new(bytes[..].try_into().ok()?))
}

/// A key file that is followed.
#[derive(Clone, Debug)]
struct KeyFile {
    path: PathBuf,
    seen: Option<FileState>,
}

impl KeyFile {
    /// Reads it for the first time.
    fn open(path: &Path) -> Result<(KeyFile, StreamKeys), TrustError> {
        let seen = FileState::of(path);
        Ok((KeyFile { path: path.to_owned(), seen }, StreamKeys::load(path)?))
    }

    /// The keys, where the file has changed since it was last looked at. What is wrong with it is logged once: the ones in force stay.
    fn look(&mut self) -> Option<StreamKeys> {
        let state = FileState::of(&self.path);
        if state == self.seen {
            return None;
        }
        self.seen = state;
        match StreamKeys::load(&self.path) {
            Ok(keys) => {
                let epochs: Vec<u8> = keys.epochs().collect();
                tracing::info!(file = %self.path.display(), ?epochs, in_use = keys.in_use(), "payload keys read anew");
                Some(keys)
            }
            Err(error) => {
                tracing::error!(%error, "payload keys are not read: the ones in force stay");
                None
            }
        }
    }
}

/// Key files that are followed, and who uses each.
#[derive(Debug, Default)]
pub struct KeyFiles {
    files: BTreeMap<PathBuf, (KeyFile, StreamKeys, Vec<usize>)>,
    hangup: Option<Signal>,
}

impl KeyFiles {
    /// Reads the key file of user number `user`; each file once.
    pub fn add(&mut self, user: usize, path: &Path) -> Result<StreamKeys, TrustError> {
        if let Some((_, keys, users)) = self.files.get_mut(path) {
            users.push(user);
            return Ok(keys.clone());
        }
        let (file, keys) = KeyFile::open(path)?;
        self.files.insert(path.to_owned(), (file, keys.clone(), vec![user]));
        Ok(keys)
    }

    /// Returns when a file has changed: the new keys of each of its users. Never returns where there is none. Looks every
    /// [`super::LOOK_EVERY`]. A service may be sent SIGHUP to have it looked at once; at a terminal SIGHUP means that it was closed, and keeps
    /// that meaning. Must be called inside a runtime; may be dropped at any moment.
    pub async fn changed(&mut self) -> Vec<(usize, StreamKeys)> {
        if self.files.is_empty() {
            std::future::pending::<()>().await;
        }
        if self.hangup.is_none() && !std::io::stderr().is_terminal() {
            self.hangup = signal(SignalKind::hangup()).ok();
        }
        loop {
            let mut changed = Vec::new();
            for (file, keys, users) in self.files.values_mut() {
                if let Some(new) = file.look() {
                    *keys = new;
                    changed.extend(users.iter().map(|user| (*user, keys.clone())));
                }
            }
            if !changed.is_empty() {
                return changed;
            }
            let hung_up = async {
                match &mut self.hangup {
                    Some(hangup) => drop(hangup.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = tokio::time::sleep(super::LOOK_EVERY) => {}
                () = hung_up => {}
            }
        }
    }
}

/// 32 bytes from the system's generator, for [`create`] and [`rotate`].
pub fn random_secret() -> Result<[u8; 32], TrustError> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes).map_err(|error| TrustError::Library(format!("no randomness: {error}")))?;
    Ok(bytes)
}

impl std::fmt::Debug for StreamKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let epochs: Vec<u8> = self.epochs().collect();
        f.debug_struct("StreamKeys").field("epochs", &epochs).field("in_use", &self.in_use()).finish_non_exhaustive()
    }
}

fn malformed(reason: impl Into<String>) -> TrustError {
    TrustError::Malformed { what: "file of payload keys", reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("news.key");
        (folder, path)
    }

    fn fixed(byte: u8) -> impl FnOnce() -> Result<[u8; 32], TrustError> {
        move || Ok([byte; 32])
    }

    fn rotated(epochs: &[u8], in_use: u8) -> Rotated {
        Rotated { epochs: epochs.to_vec(), in_use }
    }

    #[test]
    fn a_rotation_has_three_steps_in_order() {
        let (_folder, path) = folder();
        assert_eq!(create(&path, fixed(1)).unwrap(), rotated(&[1], 1));
        assert!(matches!(create(&path, fixed(1)), Err(TrustError::Exists(_))));
        assert!(switch(&path).unwrap_err().to_string().contains("in use already"));
        assert_eq!(rotate(&path, fixed(2)).unwrap(), rotated(&[1, 2], 1));
        assert!(rotate(&path, fixed(3)).unwrap_err().to_string().contains("waits already"));
        assert!(retire(&path).unwrap_err().to_string().contains("switch"));
        assert_eq!(switch(&path).unwrap(), rotated(&[1, 2], 2));
        let keys = StreamKeys::load(&path).unwrap();
        assert_eq!((keys.secret(1), keys.secret_in_use()), (Some(&Secret::new([1; 32])), &Secret::new([2; 32])));
        assert_eq!(retire(&path).unwrap(), rotated(&[2], 2));
        assert_eq!(std::fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
    }

    #[test]
    fn epochs_go_around_and_pass_by_what_is_taken() {
        let (_folder, path) = folder();
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        let text = format!("use 255\nepoch 0 abk1.{secret}\nepoch 255 abk1.{secret}\n");
        files::write_new(&path, &text, true).unwrap();
        assert_eq!(rotate(&path, fixed(9)).unwrap(), rotated(&[0, 255, 1], 255));
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let (_folder, path) = folder();
        create(&path, fixed(1)).unwrap();
        for mode in [0o640, 0o604, 0o620, 0o660] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
            let error = StreamKeys::load(&path).unwrap_err().to_string();
            assert!(error.contains("news.key") && error.contains("chmod 600"), "{error}");
        }
    }

    #[test]
    fn no_error_and_no_debug_output_shows_a_secret() {
        let secret = URL_SAFE_NO_PAD.encode([7; 32]);
        let line = format!("epoch 1 abk1.{secret}");
        for text in [
            line.clone(),
            format!("use 1\n{line}x"),
            format!("use 1\n{line}\n{line}"),
            format!("use 2\n{line}"),
            format!("use 1\nuse 1\n{line}"),
            format!("use 1\nepoch 1 {secret}"),
            format!("use 1\nepoch 256 abk1.{secret}"),
            format!("use 1\nkey 1 abk1.{secret}"),
            format!("use 1\n{line} more"),
            format!("use {secret}\n{line}"),
        ] {
            let error = format!("{0} {0:?}", StreamKeys::parse(&text).unwrap_err());
            assert!(!error.contains(&secret[..8]), "{error}");
        }
        let keys = StreamKeys::parse(&format!("# x\n\nuse 1\n{line}\n")).unwrap();
        let shown = format!("{keys:?} {:?} {}", keys.secret_in_use(), keys.describe());
        assert!(!shown.contains(&secret[..8]) && !shown.contains("7, 7"), "{shown}");
        assert!(shown.contains("epoch 1, in use, fingerprint "), "{shown}");
        assert!(is_file_of_keys(&keys.text()));
    }

    #[test]
    fn a_change_of_the_file_is_noticed_and_a_mistake_changes_nothing() {
        let (_folder, path) = folder();
        create(&path, fixed(1)).unwrap();
        let (mut file, keys) = KeyFile::open(&path).unwrap();
        assert_eq!((keys.in_use(), file.look()), (1, None));
        rotate(&path, fixed(2)).unwrap();
        assert_eq!(file.look().unwrap().epochs().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(file.look(), None);
        std::fs::write(&path, "nonsense").unwrap();
        assert_eq!(file.look(), None);
        std::fs::remove_file(&path).unwrap();
        assert_eq!(file.look(), None);
        create(&path, fixed(3)).unwrap();
        assert_eq!(file.look().unwrap().secret_in_use(), &Secret::new([3; 32]));
    }

    /// What the refusal asks for changes neither size nor time of what is in the file.
    #[test]
    fn a_file_that_is_closed_to_others_after_all_is_read() {
        let (_folder, path) = folder();
        create(&path, fixed(1)).unwrap();
        let (mut file, _) = KeyFile::open(&path).unwrap();
        rotate(&path, fixed(2)).unwrap();
        let allow = |mode| std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        allow(0o640);
        assert_eq!(file.look(), None, "others can read it");
        allow(0o600);
        assert_eq!(file.look().unwrap().epochs().collect::<Vec<_>>(), [1, 2]);
    }
}
