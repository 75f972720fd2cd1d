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

/// Opens a file, or creates it. Whoever writes to it writes behind what it holds, so that two that take turns at one file never write over each other.
pub(super) fn open_file(path: &Path) -> io::Result<File> {
    File::options().create(true).append(true).open(path)
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
    /// The file, where what it holds is thrown away once there is something to replace it with.
    replaced: Option<File>,
}

impl<W: Write> ByteWriter<W> {
    pub(super) fn new(to: W, framing: Framing) -> ByteWriter<W> {
        ByteWriter { to: BufWriter::with_capacity(BUFFER, to), framing, replaced: None }
    }
}

impl ByteWriter<File> {
    /// Replaces what the file holds, with the first packet.
    pub(super) fn replacing(file: File, framing: Framing) -> io::Result<ByteWriter<File>> {
        let replaced = Some(file.try_clone()?);
        Ok(ByteWriter { replaced, ..ByteWriter::new(file, framing) })
    }
}

impl<W: Write + Send + std::fmt::Debug> Writer for ByteWriter<W> {
    fn write(&mut self, release: &Release) -> io::Result<()> {
        if let Some(file) = self.replaced.take()
            && file.metadata()?.is_file()
        {
            file.set_len(0)?;
        }
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
            let before = std::fs::read(&path).unwrap_or_default();
            let file = open_file(&path).unwrap();
            let mut writer = match append {
                true => ByteWriter::new(file, Framing::None),
                false => ByteWriter::replacing(file, Framing::None).unwrap(),
            };
            assert_eq!(std::fs::read(&path).unwrap(), before, "kept until there is something to replace it with");
            writer.write(&release(&b"1"[..])).unwrap();
            writer.flush().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), expected);
        }
    }
}
