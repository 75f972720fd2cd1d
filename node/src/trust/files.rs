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
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(wrap)
}

/// Puts a file in the place of another, whole or not at all; `secret` as for [`write_new`].
pub(super) fn replace(path: &Path, text: &str, secret: bool) -> Result<(), TrustError> {
    let beside = path.with_extension("new");
    let wrap = |cause| TrustError::File { path: beside.clone(), cause };
    match fs::remove_file(&beside) {
        Err(cause) if cause.kind() != std::io::ErrorKind::NotFound => return Err(wrap(cause)),
        _ => {}
    }
    write_new(&beside, text, secret)?;
    fs::rename(&beside, path).map_err(wrap)
}

/// Whether others than its owner can read a file.
pub(super) fn open_to_others(path: &Path) -> bool {
    fs::metadata(path).is_ok_and(|meta| meta.mode() & 0o077 != 0)
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
