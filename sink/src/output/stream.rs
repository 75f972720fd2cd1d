//! Files and pipes.

use super::spec::Framing;
use super::worker::Writer;
use crate::playout::Release;
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::os::fd::AsFd;
use std::path::Path;

/// Bytes gathered before they are written, while more wait.
const BUFFER: usize = 256 * 1024;

/// Creates or replaces a file, or opens it to write behind what it holds.
pub(super) fn open_file(path: &Path, append: bool) -> io::Result<File> {
    File::options().create(true).write(true).append(append).truncate(!append).open(path)
}

/// Standard output as it is, without the line buffer of the standard library.
pub(super) fn stdout() -> io::Result<File> {
    Ok(File::from(io::stdout().as_fd().try_clone_to_owned()?))
}

/// Writes packets one after the other.
#[derive(Debug)]
pub(super) struct ByteWriter<W: Write> {
    to: BufWriter<W>,
    framing: Framing,
}

impl<W: Write> ByteWriter<W> {
    pub(super) fn new(to: W, framing: Framing) -> ByteWriter<W> {
        ByteWriter { to: BufWriter::with_capacity(BUFFER, to), framing }
    }
}

impl<W: Write + Send + std::fmt::Debug> Writer for ByteWriter<W> {
    fn write(&mut self, release: &Release) -> io::Result<()> {
        if self.framing == Framing::Length {
            self.to.write_all(&(release.payload.len() as u32).to_be_bytes())?;
        }
        self.to.write_all(&release.payload)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }

    fn is_fatal(&self, _: &io::Error) -> bool {
        true
    }
}

#[cfg(test)]
mod tests {
    use super::super::worker::release;
    use super::*;

    #[test]
    fn packets_are_concatenated_or_told_apart_by_their_length() {
        let mut plain = ByteWriter::new(Vec::new(), Framing::None);
        let mut framed = ByteWriter::new(Vec::new(), Framing::Length);
        for payload in [&b"ab"[..], b"c"] {
            plain.write(&release(payload)).unwrap();
            framed.write(&release(payload)).unwrap();
        }
        assert_eq!(plain.to.into_inner().unwrap(), b"abc");
        assert_eq!(framed.to.into_inner().unwrap(), b"\0\0\0\x02ab\0\0\0\x01c");
    }

    #[test]
    fn a_file_is_replaced_or_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        for (append, expected) in [(false, &b"1"[..]), (true, b"11"), (false, b"1")] {
            let mut writer = ByteWriter::new(open_file(&path, append).unwrap(), Framing::None);
            writer.write(&release(&b"1"[..])).unwrap();
            writer.flush().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), expected);
        }
    }
}
