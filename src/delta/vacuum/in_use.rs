//! The files that versions need which may still be read.

use std::collections::HashSet;

use object_store::path::Path;

use crate::delta::actions::{Action, DeletionVectorDescriptor, is_absolute};
use crate::delta::deletion_vector;
use crate::delta::log::{CommitFile, list_commits, read_commits};
use crate::delta::snapshot::Snapshot;
use crate::delta::table::DeltaTable;
use crate::error::Result;

/// So many commits are held in memory at once.
const COMMITS: usize = 64;

/// Files of a table that must stay.
#[derive(Debug, Default)]
pub(super) struct FilesInUse {
    paths: HashSet<Path>,
    /// Names of files at absolute addresses: that such an address is not in the table's folder cannot be told for sure, since a
    /// folder may have several.
    names: HashSet<String>,
}

impl FilesInUse {
    /// The files of the version, and those that commits name which are not older than `horizon`, in microseconds since the epoch.
    pub(super) async fn of(snapshot: &Snapshot, horizon: i64) -> Result<Self> {
        let table = snapshot.table();
        let mut in_use = Self::default();
        for file in snapshot.files().await?.iter() {
            in_use.add(table, &file.path, file.deletion_vector.as_ref())?;
        }
        let mut commits = list_commits(table, 0).await?;
        // milliseconds are cut off the times of commits
        commits.retain(|commit| commit.modified >= horizon.div_euclid(1000));
        in_use.add_commits(snapshot, &commits).await?;
        Ok(in_use)
    }

    /// The files that commits after the version name.
    pub(super) async fn since(snapshot: &Snapshot) -> Result<Self> {
        let commits = list_commits(snapshot.table(), snapshot.version() + 1).await?;
        let mut in_use = Self::default();
        in_use.add_commits(snapshot, &commits).await?;
        Ok(in_use)
    }

    /// Whether the file must stay.
    pub(super) fn contains(&self, path: &Path) -> bool {
        self.paths.contains(path)
            || path
                .filename()
                .is_some_and(|name| self.names.contains(name))
    }

    async fn add_commits(&mut self, snapshot: &Snapshot, commits: &[CommitFile]) -> Result<()> {
        for some in commits.chunks(COMMITS) {
            for commit in read_commits(snapshot, some).await? {
                for action in &commit.actions {
                    self.add_named(snapshot.table(), action)?;
                }
            }
        }
        Ok(())
    }

    fn add_named(&mut self, table: &DeltaTable, action: &Action) -> Result<()> {
        match action {
            Action::Add(add) => self.add(table, &add.path, add.deletion_vector.as_ref()),
            Action::Remove(remove) => {
                self.add(table, &remove.path, remove.deletion_vector.as_ref())
            }
            Action::Cdc(file) => self.add(table, &file.path, None),
            _ => Ok(()),
        }
    }

    fn add(
        &mut self,
        table: &DeltaTable,
        path: &str,
        vector: Option<&DeletionVectorDescriptor>,
    ) -> Result<()> {
        let file = table.locate(path)?;
        if is_absolute(path) {
            self.names.extend(file.path.filename().map(str::to_owned));
        }
        self.paths.insert(file.path);
        let Some(vector) = vector else {
            return Ok(());
        };
        if let Some(file) = deletion_vector::location(table, vector)? {
            if file.store.is_some() || is_absolute(&vector.path_or_inline_dv) {
                self.names.extend(file.path.filename().map(str::to_owned));
            }
            self.paths.insert(file.path);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;
    use crate::delta::actions::{AddCdcFile, Remove};

    fn in_use(actions: &[Action]) -> FilesInUse {
        let table = DeltaTable::new("t", "/w/t", HashMap::new()).unwrap();
        let mut in_use = FilesInUse::default();
        for action in actions {
            in_use.add_named(&table, action).unwrap();
        }
        in_use
    }

    fn removed(path: &str, vector: Option<&str>) -> Action {
        Action::Remove(Remove {
            path: path.into(),
            deletion_vector: vector.map(|path| DeletionVectorDescriptor {
                storage_type: "p".into(),
                path_or_inline_dv: path.into(),
                offset: Some(1),
                size_in_bytes: 1,
                cardinality: 1,
            }),
            ..Remove::default()
        })
    }

    fn check(action: Action, path: &str, expected: bool) {
        let in_use = in_use(&[action]);
        let path = Path::parse(path).unwrap();
        assert_eq!(in_use.contains(&path), expected, "{path}");
    }

    #[test]
    fn files_are_known_by_their_decoded_paths() {
        check(removed("c=a%20b/p.parquet", None), "c=a b/p.parquet", true);
        check(
            removed("c=a%253Ab/p.parquet", None),
            "c=a%3Ab/p.parquet",
            true,
        );
        check(removed("p.parquet", None), "q.parquet", false);
        check(removed("p.parquet", None), "c=1/p.parquet", false);
        let file = AddCdcFile {
            path: "_change_data/c.parquet".into(),
            ..AddCdcFile::default()
        };
        check(Action::Cdc(file), "_change_data/c.parquet", true);
    }

    #[test]
    fn what_has_an_absolute_address_is_known_by_its_name() {
        check(
            removed("file:///elsewhere/p.parquet", None),
            "p.parquet",
            true,
        );
        check(removed("file:///w/t/p.parquet", None), "p.parquet", true);
        let vector = Some("file:///elsewhere/v.bin");
        check(removed("p.parquet", vector), "v.bin", true);
        check(removed("p.parquet", vector), "w.bin", false);
    }
}
