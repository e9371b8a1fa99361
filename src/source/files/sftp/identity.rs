//! What tells one state of a file from another: SFTP gives its size and its time of change, in seconds.

use chrono::DateTime;
use object_store::path::Path;
use object_store::{Error, ObjectMeta};
use russh_sftp::protocol::{FileAttributes, FileType};

use super::failure::Failure;

/// One state of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Identity {
    /// In bytes.
    pub(super) size: u64,
    modified: u32,
}

impl Identity {
    /// The state that the attributes of the file at `path` say; what is no file counts as not there.
    pub(super) fn of(attributes: &FileAttributes, path: &str) -> Result<Self, Failure> {
        if !matches!(file_type(attributes), None | Some(FileType::File)) {
            return Err(Failure::Fatal(Error::NotFound {
                path: path.to_owned(),
                source: "it is a folder or a special file".into(),
            }));
        }
        let Some(size) = attributes.size else {
            return Err(Failure::fatal(format!(
                "{path}: the server does not say how long the file is"
            )));
        };
        Ok(Self {
            size,
            modified: attributes.mtime.unwrap_or(0),
        })
    }

    /// The tag of this state.
    pub(super) fn e_tag(&self) -> String {
        format!("{:x}-{:x}", self.modified, self.size)
    }

    /// The description of the object at `location`.
    pub(super) fn meta(&self, location: Path) -> ObjectMeta {
        ObjectMeta {
            location,
            last_modified: DateTime::from_timestamp(i64::from(self.modified), 0)
                .unwrap_or_default(),
            size: self.size,
            e_tag: Some(self.e_tag()),
            version: None,
        }
    }
}

/// What kind of file this is, where the server says so.
pub(super) fn file_type(attributes: &FileAttributes) -> Option<FileType> {
    attributes.permissions.map(|_| attributes.file_type())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attributes(permissions: Option<u32>, size: Option<u64>) -> FileAttributes {
        FileAttributes {
            size,
            permissions,
            mtime: Some(255),
            ..FileAttributes::empty()
        }
    }

    #[test]
    fn files_have_a_tag() {
        let check = |permissions, expected| {
            let identity = Identity::of(&attributes(permissions, Some(16)), "/a");
            assert_eq!(identity.ok().map(|identity| identity.e_tag()), expected);
        };
        check(Some(0o100_644), Some("ff-10".to_owned()));
        check(None, Some("ff-10".to_owned()));
        check(Some(0o040_755), None);
        check(Some(0o010_644), None);
        assert!(Identity::of(&attributes(None, None), "/a").is_err());
    }
}
