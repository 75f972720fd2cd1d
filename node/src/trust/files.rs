//! Reading and writing the files of a key directory.

use super::TrustError;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Larger files are no keys.
pub(super) const MAX_FILE: u64 = 1 << 20;

/// By what a change of a file is noticed. What is changed of its rights alone, as where it could not be read and now can, shows in the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FileState {
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl FileState {
    /// What it is like now; `None` where there is none.
    pub(super) fn of(path: &Path) -> Option<FileState> {
        let meta = fs::metadata(path).ok()?;
        Some(FileState {
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

pub(super) fn read(path: &Path) -> Result<String, TrustError> {
    let wrap = |cause| TrustError::File { path: path.to_owned(), cause };
    if fs::metadata(path).map_err(wrap)?.len() > MAX_FILE {
        return Err(content(path, "a file of at most 1 MiB", "it is larger"));
    }
    fs::read_to_string(path).map_err(wrap)
}

/// Writes a new file; `secret` ones are readable by their owner alone from the moment they exist.
pub(super) fn write_new(path: &Path, text: &str, secret: bool) -> Result<(), TrustError> {
    let wrap = |cause: std::io::Error| match cause.kind() {
        std::io::ErrorKind::AlreadyExists => TrustError::Exists(path.to_owned()),
        _ => TrustError::File { path: path.to_owned(), cause },
    };
    let mode = if secret { 0o600 } else { 0o644 };
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path).map_err(wrap)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(|cause| {
        // Half of it would be in the way of the next attempt.
        drop(fs::remove_file(path));
        wrap(cause)
    })
}

/// Puts a file in the place of another, whole or not at all; `secret` as for [`write_new`].
pub(super) fn replace(path: &Path, text: &str, secret: bool) -> Result<(), TrustError> {
    let beside = write_beside(path, text, secret)?;
    rename(&beside, path).inspect_err(|_| drop(fs::remove_file(&beside)))
}

/// Gives a file another name, in the place of what has it; that outlasts a crash from then on, and what was done before comes first.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), TrustError> {
    let wrap = |cause| TrustError::File { path: to.to_owned(), cause };
    fs::rename(from, to).map_err(wrap)?;
    let directory = to.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    fs::File::open(directory).and_then(|directory| directory.sync_all()).map_err(wrap)
}

/// Writes a new file beside `path`, under a name that nobody else gives.
fn write_beside(path: &Path, text: &str, secret: bool) -> Result<PathBuf, TrustError> {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let mut nth = 0;
    loop {
        let beside = path.with_file_name(format!(".{name}.{}-{nth}", std::process::id()));
        match write_new(&beside, text, secret) {
            // Of a process that had this id before, and was ended half-way.
            Err(TrustError::Exists(_)) if nth < 100 => nth += 1,
            written => return written.map(|()| beside),
        }
    }
}

/// Whether others than its owner can read a file, or write it.
pub(super) fn open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0)
}

/// Whether more can be done with a file than that its owner reads and writes it and its group, as that of a service, reads it.
pub(super) fn open_beyond_group(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o027 != 0)
}

/// Makes the key directory, closed to others, where it is not there yet.
pub(super) fn make_directory(path: &Path) -> Result<(), TrustError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|cause| TrustError::File { path: path.to_owned(), cause })
}

/// The first certificate of a file.
pub(super) fn certificate(path: &Path) -> Result<CertificateDer<'static>, TrustError> {
    Ok(certificates(path)?.swap_remove(0))
}

/// All certificates of a file: at least one.
pub(super) fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TrustError> {
    let wrong = |reason: String| content(path, "a certificate in PEM", reason);
    let text = read(path)?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text.as_bytes()).collect();
    let found = found.map_err(|reason| wrong(reason.to_string()))?;
    if found.is_empty() { Err(wrong("it holds none".to_owned())) } else { Ok(found) }
}

pub(super) fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TrustError> {
    PrivateKeyDer::from_pem_slice(read(path)?.as_bytes())
        .map_err(|reason| content(path, "a private key in PEM", reason.to_string()))
}

pub(super) fn content(path: &Path, expected: &'static str, reason: impl Into<String>) -> TrustError {
    TrustError::Content { path: path.to_owned(), expected, reason: reason.into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_is_put_in_the_place_of_a_file_takes_no_other_ones() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        for name in ["fra.new", "fra.key", "fra"] {
            fs::write(at(name), name).unwrap();
        }
        // Left by a process of the same id.
        fs::write(at(&format!(".fra.new.{}-0", std::process::id())), "half").unwrap();
        replace(&at("fra.new"), "a payload key, say", true).unwrap();
        replace(&at("fra.key"), "another key", true).unwrap();
        let text = |name: &str| fs::read_to_string(at(name)).unwrap();
        assert_eq!(
            (text("fra.new"), text("fra.key"), text("fra")),
            ("a payload key, say".into(), "another key".into(), "fra".into())
        );
        assert_eq!(fs::metadata(at("fra.key")).unwrap().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 4, "nothing of its own is left");
    }

    #[test]
    fn a_file_in_a_directory_that_is_not_there_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let error = replace(&folder.path().join("none/fra.key"), "", true).unwrap_err().to_string();
        assert!(error.contains("fra.key"), "{error}");
    }

    #[test]
    fn every_change_of_a_file_shows() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fra.key");
        assert_eq!(FileState::of(&path), None);
        write_new(&path, "a", true).unwrap();
        let first = FileState::of(&path);
        assert_eq!(FileState::of(&path), first);
        // The clock of files has a grain.
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let closed = FileState::of(&path);
        assert_ne!(closed, first);
        replace(&path, "b", true).unwrap();
        assert_ne!(FileState::of(&path), closed);
    }
}
