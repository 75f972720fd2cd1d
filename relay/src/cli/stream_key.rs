//! `keys stream-key`: the files of payload keys that seal streams from source to sink, and their rotation.

use clap::{Args, Subcommand};
use node::trust::TrustError;
use node::trust::stream_keys::{self, Rotated, random_secret};
use std::path::PathBuf;

/// Payload keys: what seals streams from source to sink. No relay needs them.
#[derive(Debug, Subcommand)]
pub(super) enum StreamKey {
    /// Make a file with one key, for the sources and the sinks of some streams
    Create(File),
    /// First step of a rotation: add a key that nobody seals with yet. Then copy the file to every sink
    Rotate(File),
    /// Second step: put the newest key in use. Then copy the file to every source
    Switch(File),
    /// Third step, once nothing sealed with an older key is under way: drop all keys but the one in use. Then copy the file everywhere
    Retire(File),
}

#[derive(Debug, Args)]
pub(super) struct File {
    /// The key file; its owner alone may read it
    #[arg(value_name = "FILE")]
    file: PathBuf,
}

impl StreamKey {
    pub(super) fn execute(self) -> Result<String, TrustError> {
        let (file, done, next) = match self {
            StreamKey::Create(File { file }) => {
                let done = stream_keys::create(&file, random_secret);
                (file, done, "copy it to every source and sink of the streams, mode 0600: --payload-key FILE")
            }
            StreamKey::Rotate(File { file }) => {
                let done = stream_keys::rotate(&file, random_secret);
                (file, done, "copy it to every sink, and see there that it was read; then `switch`")
            }
            StreamKey::Switch(File { file }) => {
                let done = stream_keys::switch(&file);
                (file, done, "copy it to every source; `retire` once nothing of the old key is under way")
            }
            StreamKey::Retire(File { file }) => {
                let done = stream_keys::retire(&file);
                (file, done, "copy it to every sink and source")
            }
        };
        let Rotated { epochs, in_use } = done?;
        let epochs = epochs.iter().map(u8::to_string).collect::<Vec<_>>().join(", ");
        Ok(format!("{}: epochs {epochs}; {in_use} in use\nnext: {next}\n", file.display()))
    }
}
