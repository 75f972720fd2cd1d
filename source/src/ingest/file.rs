//! A transport stream in a file, paced by its clock references.

use super::{Feed, Pacing};
use crate::packetize::{RECOGNISE_WITHIN, Recognition, recognise};
use crate::playback::Playback;
use node::exit::{Exit, Failure};
use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use tokio::io::{AsyncReadExt, AsyncSeekExt};

/// Bytes read at once.
const READ: usize = 128 << 10;

/// A file that is there and is a transport stream.
#[derive(Debug)]
pub(crate) struct FileInput {
    path: PathBuf,
    endless: bool,
}

impl FileInput {
    pub(super) fn open(path: &Path, endless: bool) -> Result<FileInput, Failure> {
        let head = head(path).map_err(|error| fail(path, error))?;
        match recognise(&head, head.len() < RECOGNISE_WITHIN) {
            Recognition::TransportStream => Ok(FileInput { path: path.into(), endless }),
            Recognition::Other(what) => Err(Failure::new(
                Exit::NoInput,
                format!(
                    "{}: {what}; expected an MPEG transport stream of 188-byte packets, as from: ffmpeg -i FILE -c copy -f mpegts OUT.ts",
                    path.display()
                ),
            )),
            Recognition::Undecided => Err(fail(path, "too short to be a transport stream")),
        }
    }

    pub(super) async fn run(self, feed: &Feed) -> Result<(), Failure> {
        let failed = |error: io::Error| Failure::new(Exit::Io, format!("{}: {error}", self.path.display()));
        let no_clock = |error| fail(&self.path, error);
        let mut file = tokio::fs::File::open(&self.path).await.map_err(failed)?;
        let (mut playback, mut pacing) = (Playback::default(), Pacing::default());
        let (mut buffer, mut dues) = (vec![0; READ], VecDeque::new());
        let mut ended = false;
        while !ended {
            let read = file.read(&mut buffer).await.map_err(failed)?;
            if read > 0 {
                playback.push(&buffer[..read]).map_err(no_clock)?;
            } else if self.endless {
                playback.rewind().map_err(no_clock)?;
                file.rewind().await.map_err(failed)?;
                feed.counters(|counters| counters.loops = playback.loops());
            } else {
                playback.finish().map_err(no_clock)?;
                ended = true;
            }
            dues.extend(std::iter::from_fn(|| playback.poll()));
            while !dues.is_empty() {
                pacing.play(feed, &mut dues).await;
            }
        }
        Ok(())
    }
}

fn head(path: &Path) -> io::Result<Vec<u8>> {
    let mut head = Vec::new();
    File::open(path)?.take(RECOGNISE_WITHIN as u64).read_to_end(&mut head)?;
    Ok(head)
}

fn fail(path: &Path, what: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::NoInput, format!("{}: {what}", path.display()))
}
