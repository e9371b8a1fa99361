//! Row ids that rows keep when they are updated or moved (Delta protocol, *Row Tracking*).
//!
//! A row's id is the value of its file's materialized column or, where that is absent or NULL, the file's `baseRowId` plus the row's
//! position. Every commit gives its new files fresh base ids above the table's high-water mark, which is a domain of its own.

use std::collections::HashMap;
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::actions::{Action, Add, DomainMetadata};
use super::properties::flag;
use super::stats::num_records;
use crate::error::{Error, Result};

/// The domain that holds the high-water mark.
pub(crate) const ROW_TRACKING_DOMAIN: &str = "delta.rowTracking";
/// The tag of a commit that has not given rows new ids.
pub(super) const PRESERVED: &str = "delta.rowTracking.preserved";
/// The highest row id of a table that has none.
pub(crate) const NO_ROW_ID: i64 = -1;

/// Switches row ids.
pub(crate) const ENABLE_ROW_TRACKING: &str = "delta.enableRowTracking";
/// Prefix of the properties that writers keep.
pub(crate) const ROW_TRACKING_PREFIX: &str = "delta.rowTracking.";
const ROW_ID_COLUMN: &str = "delta.rowTracking.materializedRowIdColumnName";
const COMMIT_VERSION_COLUMN: &str = "delta.rowTracking.materializedRowCommitVersionColumnName";

/// The columns of data files in which rows carry what their file's defaults would not say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RowTracking {
    row_id: String,
    commit_version: String,
}

impl RowTracking {
    /// The columns that a table's properties name; `None` where they do not.
    pub(super) fn of(values: &HashMap<String, String>) -> Option<Self> {
        Some(Self {
            row_id: values.get(ROW_ID_COLUMN)?.clone(),
            commit_version: values.get(COMMIT_VERSION_COLUMN)?.clone(),
        })
    }

    /// The column with the rows' ids.
    pub(crate) fn row_id(&self) -> FieldRef {
        Arc::new(Field::new(&self.row_id, DataType::Int64, true))
    }

    /// The column with the versions that changed the rows last.
    pub(crate) fn commit_version(&self) -> FieldRef {
        Arc::new(Field::new(&self.commit_version, DataType::Int64, true))
    }
}

/// Names the columns of a table whose rows are to have ids; names that are there stay. No name of a table's own column is one of
/// these.
pub(crate) fn name_columns(values: &mut HashMap<String, String>) {
    if !flag(values, ENABLE_ROW_TRACKING) {
        return;
    }
    let columns = [
        (ROW_ID_COLUMN, "_row-id-col"),
        (COMMIT_VERSION_COLUMN, "_row-commit-version-col"),
    ];
    for (key, kind) in columns {
        let column = values.entry(key.into());
        column.or_insert_with(|| format!("{kind}-{}", Uuid::new_v4()));
    }
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HighWaterMark {
    row_id_high_water_mark: i64,
}

/// The high-water mark in the configuration of the domain.
pub(super) fn parse_high_water_mark(configuration: &str) -> Result<i64> {
    let mark: HighWaterMark = serde_json::from_str(configuration)?;
    Ok(mark.row_id_high_water_mark)
}

/// The high-water mark that a commit has set, if it has.
pub(super) fn high_water_mark(commit: &[Action]) -> Option<i64> {
    commit.iter().find_map(|action| match action {
        Action::DomainMetadata(domain) if domain.domain == ROW_TRACKING_DOMAIN => {
            parse_high_water_mark(&domain.configuration).ok()
        }
        _ => None,
    })
}

/// Gives the new files among a commit's actions row ids above `highest`, and says how far they go.
///
/// # Errors
/// [`Error::Internal`] for a new file that does not say how many rows it holds.
pub(super) fn assign(actions: &mut Vec<Action>, highest: i64, version: i64) -> Result<()> {
    let mut highest = highest;
    let mut assigned = false;
    for action in actions.iter_mut() {
        if let Action::Add(add) = action
            && add.base_row_id.is_none()
        {
            highest = assign_file(add, highest, version)?;
            assigned = true;
        }
    }
    if assigned {
        let mark = HighWaterMark {
            row_id_high_water_mark: highest,
        };
        actions.push(Action::DomainMetadata(DomainMetadata {
            domain: ROW_TRACKING_DOMAIN.into(),
            configuration: serde_json::to_string(&mark)?,
            removed: false,
        }));
    }
    Ok(())
}

fn assign_file(add: &mut Add, highest: i64, version: i64) -> Result<i64> {
    let rows = num_records(add).ok_or_else(|| {
        Error::internal(format!("the new file {} does not count its rows", add.path))
    })?;
    add.base_row_id = Some(highest + 1);
    // a file that is added again keeps the version that it has
    add.default_row_commit_version = add.default_row_commit_version.or(Some(version));
    Ok(highest + i64::try_from(rows).map_err(Error::internal)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(path: &str, rows: u64, base: Option<i64>) -> Action {
        Action::Add(Add {
            path: path.into(),
            stats: Some(format!(r#"{{"numRecords":{rows}}}"#)),
            base_row_id: base,
            default_row_commit_version: base.map(|_| 1),
            ..Add::default()
        })
    }

    #[test]
    fn columns_are_named_once_and_only_where_rows_have_ids() {
        let mut values = HashMap::from([(ENABLE_ROW_TRACKING.to_owned(), "false".to_owned())]);
        name_columns(&mut values);
        assert_eq!(RowTracking::of(&values), None);
        values.insert(ENABLE_ROW_TRACKING.into(), "TRUE".into());
        name_columns(&mut values);
        let named = RowTracking::of(&values).unwrap();
        assert!(named.row_id.starts_with("_row-id-col-"), "{named:?}");
        name_columns(&mut values);
        assert_eq!(RowTracking::of(&values), Some(named));
    }

    #[test]
    fn new_files_get_fresh_ids_and_old_ones_keep_theirs() {
        let mut actions = vec![
            file("a", 3, None),
            file("old", 9, Some(2)),
            file("b", 2, None),
        ];
        assign(&mut actions, 10, 7).unwrap();
        let ids: Vec<_> = actions
            .iter()
            .filter_map(|action| match action {
                Action::Add(add) => Some((add.base_row_id, add.default_row_commit_version)),
                _ => None,
            })
            .collect();
        assert_eq!(
            ids,
            [(Some(11), Some(7)), (Some(2), Some(1)), (Some(14), Some(7))]
        );
        assert_eq!(high_water_mark(&actions), Some(15));
        let mut nothing = vec![file("old", 9, Some(2))];
        assign(&mut nothing, 10, 8).unwrap();
        assert_eq!(high_water_mark(&nothing), None);
    }
}
