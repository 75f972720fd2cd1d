//! Files and pipes.

use super::spec::Framing;
use super::worker::{Waiting, Writer};
use crate::playout::Release;
use std::fs::File;
use std::io::{self, Seek, Write};
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

/// Writes packets one after the other. Each is a record, that is written whole or, in a file, not at all: what a full disk has left of one is cut off
/// again, so that whoever goes on behind it does not begin within a packet.
#[derive(Debug)]
pub(super) struct ByteWriter<W> {
    to: W,
    framing: Framing,
    /// Records that wait to be written, one behind the other, and where each ends.
    waiting: Vec<u8>,
    ends: Vec<usize>,
    /// The file that is written to, where it is one.
    file: Option<File>,
    /// What the file holds is thrown away once there is something to replace it with.
    replaces: bool,
}

impl<W: Write> ByteWriter<W> {
    pub(super) fn new(to: W, framing: Framing) -> ByteWriter<W> {
        let waiting = Vec::with_capacity(BUFFER);
        ByteWriter { to, framing, waiting, ends: Vec::new(), file: None, replaces: false }
    }

    /// Writes all that waits. Where that fails, what has not been written whole is left waiting.
    fn write_out(&mut self) -> io::Result<()> {
        let (mut written, mut result) = (0, Ok(()));
        while written < self.waiting.len() && result.is_ok() {
            match self.to.write(&self.waiting[written..]) {
                Ok(0) => result = Err(io::ErrorKind::WriteZero.into()),
                Ok(more) => written += more,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => result = Err(error),
            }
        }
        let whole = self.ends.partition_point(|end| *end <= written);
        let kept = whole.checked_sub(1).map_or(0, |last| self.ends[last]);
        self.cut(written - kept);
        self.waiting.drain(..kept);
        self.ends.drain(..whole);
        self.ends.iter_mut().for_each(|end| *end -= kept);
        result
    }

    /// Takes the last `torn` bytes off the file again, unless another has written behind them.
    fn cut(&self, torn: usize) {
        let Some(mut file) = self.file.as_ref().filter(|_| torn > 0) else { return };
        let cut = file.stream_position().and_then(|end| {
            let is_last = file.metadata()?.len() == end;
            if is_last { file.set_len(end - torn as u64) } else { Ok(()) }
        });
        if let Err(error) = cut {
            tracing::warn!(%error, torn, "the file ends within a packet, and cannot be cut");
        }
    }
}

impl ByteWriter<File> {
    /// Writes behind what the file holds.
    pub(super) fn appending(file: File, framing: Framing) -> io::Result<ByteWriter<File>> {
        let regular = if file.metadata()?.is_file() { Some(file.try_clone()?) } else { None };
        Ok(ByteWriter { file: regular, ..ByteWriter::new(file, framing) })
    }

    /// Replaces what the file holds, with the first packet.
    pub(super) fn replacing(file: File, framing: Framing) -> io::Result<ByteWriter<File>> {
        Ok(ByteWriter { replaces: true, ..ByteWriter::appending(file, framing)? })
    }
}

impl<W: Write + Send + std::fmt::Debug> Writer for ByteWriter<W> {
    fn write(&mut self, release: &Release) -> io::Result<()> {
        if std::mem::take(&mut self.replaces)
            && let Some(file) = &self.file
        {
            file.set_len(0)?;
        }
        let header = (release.payload.len() as u32).to_be_bytes();
        let header = if self.framing == Framing::Length { &header[..] } else { &[] };
        if self.waiting.len() + header.len() + release.payload.len() > BUFFER {
            self.write_out()?;
        }
        self.waiting.extend_from_slice(header);
        self.waiting.extend_from_slice(&release.payload);
        self.ends.push(self.waiting.len());
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.write_out()
    }

    fn waiting(&self) -> Waiting {
        let packets = self.ends.len() as u64;
        let headers = if self.framing == Framing::Length { 4 * packets } else { 0 };
        Waiting { packets, bytes: self.waiting.len() as u64 - headers }
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
        assert_eq!(
            (plain.waiting(), framed.waiting()),
            (Waiting { packets: 2, bytes: 3 }, Waiting { packets: 2, bytes: 3 })
        );
        plain.flush().unwrap();
        framed.flush().unwrap();
        assert_eq!((plain.waiting(), framed.waiting()), (Waiting::default(), Waiting::default()));
        assert_eq!(plain.to, b"abc");
        assert_eq!(framed.to, b"\0\0\0\x02ab\0\0\0\x01c");
    }

    #[test]
    fn a_file_is_replaced_or_appended_to() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        for (append, expected) in [(false, &b"1"[..]), (true, b"11"), (false, b"1")] {
            let before = std::fs::read(&path).unwrap_or_default();
            let file = open_file(&path).unwrap();
            let mut writer = match append {
                true => ByteWriter::appending(file, Framing::None).unwrap(),
                false => ByteWriter::replacing(file, Framing::None).unwrap(),
            };
            assert_eq!(std::fs::read(&path).unwrap(), before, "kept until there is something to replace it with");
            writer.write(&release(&b"1"[..])).unwrap();
            writer.flush().unwrap();
            assert_eq!(std::fs::read(&path).unwrap(), expected);
        }
    }

    /// A disk with so much room left.
    #[derive(Debug)]
    struct Disk {
        file: File,
        room: usize,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.room == 0 && !bytes.is_empty() {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let written = self.file.write(&bytes[..bytes.len().min(self.room)])?;
            self.room -= written;
            Ok(written)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_leaves_whole_packets_and_an_account_of_the_rest() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        // Each packet takes 7 bytes. What was there before, for how much there is room, and what is there in the end.
        for (room, expected) in [(0, 0), (6, 0), (7, 1), (20, 2), (21, 3)] {
            std::fs::write(&path, b"before").unwrap();
            let file = open_file(&path).unwrap();
            let copy = file.try_clone().unwrap();
            let mut writer = ByteWriter { file: Some(copy), ..ByteWriter::new(Disk { file, room }, Framing::Length) };
            for _ in 0..3 {
                writer.write(&release(&b"abc"[..])).unwrap();
            }
            assert_eq!(writer.flush().is_ok(), expected == 3, "room for {room}");
            let whole = [&b"before"[..], &b"\0\0\0\x03abc".repeat(expected)].concat();
            assert_eq!(std::fs::read(&path).unwrap(), whole, "room for {room}");
            let left = 3 - expected as u64;
            assert_eq!(writer.waiting(), Waiting { packets: left, bytes: 3 * left });
        }
    }
}
