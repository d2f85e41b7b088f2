//! Everything the engine can answer instead of a result: one enum, mirrored one to one in Python.
//!
//! A message stands alone: it says what was wrong, with which file or key, and what to do. Faces never
//! compose messages, they only translate the variant into the exception of the same name. One enum per
//! module was rejected: callers would have to know which layer a failure comes from to handle it.

use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// Of every operation of the engine.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong. Each message is complete: what was wrong, where, what to do.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The operating system refused an operation on a file.
    #[error("cannot {operation} {}: {source}{}", path.display(), remedy(source))]
    Io {
        /// A verb in the infinitive that completes "cannot ...".
        operation: Cow<'static, str>,
        /// The file or directory.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A tier has no room and the store was told not to evict, or nothing can be evicted.
    #[error("{0}")]
    Full(String),
    /// The key is too long, or not one that this operation can take.
    #[error("{0}")]
    InvalidKey(String),
    /// The value exceeds what a record can hold, or what the store could ever hold.
    #[error("{0}")]
    ValueTooLarge(String),
    /// An option that is unknown, out of range, or contradicts another or the store.
    #[error("{0}")]
    InvalidOption(String),
    /// The path holds something, but not a store.
    #[error("{0}")]
    NotAStore(String),
    /// A store, written in a layout that this build cannot share.
    #[error("{0}")]
    WrongLayout(String),
    /// Somebody is attached, and the operation needs the store for itself.
    #[error("{0}")]
    InUse(String),
    /// The system refused access, or a file belongs to another user.
    #[error("{0}")]
    Permission(String),
    /// A change, asked of a store that was opened read-only.
    #[error("{0}")]
    ReadOnly(String),
    /// The handle was closed.
    #[error("{0}")]
    Closed(String),
    /// Stored bytes contradict their checksum or an invariant.
    #[error("{0}")]
    Corrupt(String),
    /// A transaction expected a version that is no longer current.
    #[error("{0}")]
    Conflict(String),
    /// The value is not of the kind that the operation works on.
    #[error("{0}")]
    WrongType(String),
    /// A counter would leave its range.
    #[error("{0}")]
    Overflow(String),
    /// A lock was not to be had in time.
    #[error("{0}")]
    Timeout(String),
    /// A flush failed earlier: after that the page cache cannot be trusted, so writes stay refused until reopened.
    #[error("{0}")]
    WritesStopped(String),
    /// All participant slots are taken.
    #[error("{0}")]
    TooManyParticipants(String),
    /// The operations of one transaction do not fit into one segment of the log.
    #[error("{0}")]
    TransactionTooLarge(String),
    /// The call was given up because its caller asked for that.
    #[error("{0}")]
    Cancelled(String),
}

impl Error {
    /// Every variant's name; the Python hierarchy is tested to be the same set.
    pub const NAMES: &'static [&'static str] = &[
        "Io",
        "Full",
        "InvalidKey",
        "ValueTooLarge",
        "InvalidOption",
        "NotAStore",
        "WrongLayout",
        "InUse",
        "Permission",
        "ReadOnly",
        "Closed",
        "Corrupt",
        "Conflict",
        "WrongType",
        "Overflow",
        "Timeout",
        "WritesStopped",
        "TooManyParticipants",
        "TransactionTooLarge",
        "Cancelled",
    ];

    /// The variant's name, as in [`Error::NAMES`].
    pub fn name(&self) -> &'static str {
        match self {
            Error::Io { .. } => "Io",
            Error::Full(_) => "Full",
            Error::InvalidKey(_) => "InvalidKey",
            Error::ValueTooLarge(_) => "ValueTooLarge",
            Error::InvalidOption(_) => "InvalidOption",
            Error::NotAStore(_) => "NotAStore",
            Error::WrongLayout(_) => "WrongLayout",
            Error::InUse(_) => "InUse",
            Error::Permission(_) => "Permission",
            Error::ReadOnly(_) => "ReadOnly",
            Error::Closed(_) => "Closed",
            Error::Corrupt(_) => "Corrupt",
            Error::Conflict(_) => "Conflict",
            Error::WrongType(_) => "WrongType",
            Error::Overflow(_) => "Overflow",
            Error::Timeout(_) => "Timeout",
            Error::WritesStopped(_) => "WritesStopped",
            Error::TooManyParticipants(_) => "TooManyParticipants",
            Error::TransactionTooLarge(_) => "TransactionTooLarge",
            Error::Cancelled(_) => "Cancelled",
        }
    }

    /// `operation` is a verb that completes "cannot ...". A refusal for want of permission becomes
    /// [`Error::Permission`], whichever call it came from, so that callers handle one class.
    pub fn io(operation: impl Into<Cow<'static, str>>, path: impl AsRef<Path>, source: io::Error) -> Error {
        let (operation, path) = (operation.into(), path.as_ref());
        if source.kind() == io::ErrorKind::PermissionDenied {
            return Error::Permission(format!(
                "cannot {operation} {}: {source}; run as the user who owns it, or have its owner and mode changed",
                path.display()
            ));
        }
        Error::Io { operation, path: path.to_path_buf(), source }
    }

    /// The operating system's error number, where the failure came from it.
    pub fn os_error(&self) -> Option<i32> {
        match self {
            Error::Io { source, .. } => source.raw_os_error(),
            _ => None,
        }
    }

    /// Whether the device could not give back what it holds. That says nothing of the bytes beside those, and of what is written elsewhere.
    pub fn is_device_failure(&self) -> bool {
        matches!(self, Error::Io { source, .. } if is_device_failure(source))
    }

    /// [`Error::Full`]
    pub fn full(message: impl Into<String>) -> Error {
        Error::Full(message.into())
    }

    /// [`Error::InvalidOption`]
    pub fn invalid_option(message: impl Into<String>) -> Error {
        Error::InvalidOption(message.into())
    }

    /// [`Error::Corrupt`]
    pub fn corrupt(message: impl Into<String>) -> Error {
        Error::Corrupt(message.into())
    }
}

/// EIO, and what file systems and devices answer where their own checksums or sectors are bad.
pub(crate) fn is_device_failure(source: &io::Error) -> bool {
    const NUMBERS: [i32; 6] =
        [libc::EIO, libc::EBADMSG, libc::EUCLEAN, libc::ENODATA, libc::EILSEQ, libc::EREMOTEIO];
    source.raw_os_error().is_some_and(|number| NUMBERS.contains(&number))
}

/// What to do about the failures that a user can do something about.
fn remedy(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::StorageFull => {
            "; free space on that file system, or create the store with smaller tiers"
        }
        io::ErrorKind::QuotaExceeded => {
            "; raise the quota on that file system, or create the store with smaller tiers"
        }
        io::ErrorKind::ReadOnlyFilesystem => "; mount that file system writable, or open the store read-only",
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::NotADirectory => "; a part of the path is a file: name a directory",
        io::ErrorKind::FileTooLarge => {
            "; raise the limit on the size of files (ulimit -f), or use a file system that takes such files"
        }
        _ if is_device_failure(source) => {
            "; the device failed: look into the system's log, then run `thermae check`"
        }
        // EMFILE has no stable kind of its own.
        _ => match source.raw_os_error() {
            Some(23 | 24) => "; too many files are open: raise the limit on open files",
            Some(40) => "; symbolic links are not followed: name the file's real place",
            _ => "",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one_of_each() -> Vec<Error> {
        let text = || "text".to_string();
        vec![
            Error::io("read", "/data/cold", io::Error::from_raw_os_error(5)),
            Error::Full(text()),
            Error::InvalidKey(text()),
            Error::ValueTooLarge(text()),
            Error::InvalidOption(text()),
            Error::NotAStore(text()),
            Error::WrongLayout(text()),
            Error::InUse(text()),
            Error::Permission(text()),
            Error::ReadOnly(text()),
            Error::Closed(text()),
            Error::Corrupt(text()),
            Error::Conflict(text()),
            Error::WrongType(text()),
            Error::Overflow(text()),
            Error::Timeout(text()),
            Error::WritesStopped(text()),
            Error::TooManyParticipants(text()),
            Error::TransactionTooLarge(text()),
            Error::Cancelled(text()),
        ]
    }

    #[test]
    fn names_are_the_variants_in_order() {
        let names: Vec<_> = one_of_each().iter().map(Error::name).collect();
        assert_eq!(names, Error::NAMES);
    }

    #[test]
    fn a_message_names_the_operation_the_file_the_cause_and_the_remedy() {
        let message = Error::io("write", "/data/cold", io::Error::from_raw_os_error(28)).to_string();
        for part in ["cannot write", "/data/cold", "No space left", "smaller tiers"] {
            assert!(message.contains(part), "{message} lacks {part}");
        }
    }

    #[test]
    fn a_refusal_for_want_of_permission_is_its_own_variant() {
        let error = Error::io("open", "/data/store", io::Error::from_raw_os_error(13));
        assert_eq!(error.name(), "Permission");
        assert!(error.to_string().contains("/data/store"));
    }

    #[test]
    fn the_system_error_number_is_kept() {
        let error = Error::io("read", "x", io::Error::from_raw_os_error(5));
        assert_eq!(error.os_error(), Some(5));
        assert_eq!(Error::full("x").os_error(), None);
    }
}
