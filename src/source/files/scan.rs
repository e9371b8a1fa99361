//! Plans the read of some versions: which files, which of their columns, by which reader.
//!
//! ```text
//!  Parquet   MarkExec ── DataSourceExec      files whose columns are those that the source holds
//!            MarkExec ── DataSourceExec      files of one shape whose columns have other types or spellings
//!  others    TextExec                        reads and marks
//! ```

mod parquet;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::pruning::PrunableStatistics;
use datafusion::common::stats::Precision;
use datafusion::common::{ColumnStatistics, DFSchema, ScalarValue, Statistics};
use datafusion::logical_expr::Expr;
use datafusion::logical_expr::utils::conjunction;
use datafusion::physical_optimizer::pruning::PruningPredicateBuilder;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::empty::EmptyExec;
use datafusion::physical_plan::union::UnionExec;
use object_store::ObjectStore;
use uuid::Uuid;

use super::discovery::below;
use super::guarded_store::GuardedStore;
use super::inspect::folder_values;
use super::ledger::FileVersion;
use super::location::Location;
use super::mark::{Carried, MarkedFile, Marking, Output};
use super::mark_exec::Wanted;
use super::options::{FileFormat, FileOptions, OnInvalid};
use super::reader::{ReadSpec, TextFormat};
use super::set_aside::SetAsideExec;
use super::shape::{Shape, find};
use super::text_exec::{TextExec, TextFile, TextScan};
use crate::change::{COMMIT_TIMESTAMP, COMMIT_VERSION};
use crate::error::{Error, Result};
use crate::source::ChangeRead;

/// A file of a scan.
#[derive(Debug, Clone)]
pub(super) struct ScannedFile {
    pub file: FileVersion,
    pub shape: Arc<Shape>,
}

/// The read of some files.
#[derive(Debug)]
pub(super) struct FileScan<'a> {
    pub name: &'a str,
    pub location: &'a Location,
    pub options: &'a Arc<FileOptions>,
    /// The source's columns at the version that is read.
    pub held: &'a [FieldRef],
    /// All columns of the change relation, those of the source first.
    pub schema: &'a SchemaRef,
    pub files: Vec<ScannedFile>,
    pub wanted: Wanted,
}

impl FileScan<'_> {
    /// Plans it; the result has the projected columns of [`Self::schema`], or those of rows that were set aside.
    pub(super) fn plan(mut self, read: &ChangeRead<'_>) -> Result<Arc<dyn ExecutionPlan>> {
        let (unreadable, files): (Vec<_>, Vec<_>) = std::mem::take(&mut self.files)
            .into_iter()
            .partition(|file| file.shape.unreadable.is_some());
        self.files = files;
        let sets_aside = self.options.on_invalid == OnInvalid::Quarantine;
        if let Some(file) = unreadable.first()
            && !sets_aside
            && self.wanted == Wanted::Changes
        {
            return Err(self.unreadable(file));
        }
        self.prune(read)?;
        let columns = Columns::new(&self, read, self.reads_all()?);
        let mut plans = Vec::new();
        if !unreadable.is_empty() {
            let marking = self.marking(&columns, false);
            let set_aside = SetAsideExec::try_new(&unreadable, marking, self.wanted)?;
            plans.push(Arc::new(set_aside) as Arc<dyn ExecutionPlan>);
        }
        if !self.files.is_empty() {
            match &self.options.format {
                FileFormat::Parquet => plans.extend(self.parquet(read, &columns)?),
                FileFormat::Text(format) => plans.push(self.text(read, &columns, format)?),
            }
        }
        match plans.len() {
            0 => {
                let schema = self.wanted.schema(&columns.output_schema);
                Ok(Arc::new(EmptyExec::new(schema)))
            }
            1 => Ok(plans.remove(0)),
            _ => Ok(UnionExec::try_new(plans)?),
        }
    }

    fn unreadable(&self, file: &ScannedFile) -> Error {
        Error::invalid(format!(
            "the file {} of version {} of {} has been set aside as a whole by a reader with on_invalid 'quarantine' ({}); read on from that \
             version, or give this table the same option",
            file.file.path,
            file.file.version,
            self.name,
            file.shape.unreadable.as_deref().unwrap_or_default()
        ))
    }

    /// Whether every column has to be read: a row is set aside for any value that does not fit, wanted or not.
    fn reads_all(&self) -> Result<bool> {
        if self.wanted == Wanted::Rejected {
            return Ok(true);
        }
        if self.options.on_invalid != OnInvalid::Quarantine {
            return Ok(false);
        }
        if self.options.format != FileFormat::Parquet {
            return Ok(true);
        }
        let all: Vec<usize> = (0..self.held.len()).collect();
        let mut known: HashSet<*const Shape> = HashSet::new();
        for file in &self.files {
            if known.insert(Arc::as_ptr(&file.shape)) && !self.fits(&file.shape, &all)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Leaves out the files that the filters rule out by what is the same in all their rows.
    fn prune(&mut self, read: &ChangeRead<'_>) -> Result<()> {
        let mut paths: HashSet<&str> = HashSet::from([COMMIT_VERSION, COMMIT_TIMESTAMP]);
        paths.extend(in_path(&self.files));
        let of_files = |filter: &&Expr| {
            let mut columns = filter.column_refs().into_iter();
            columns.any(|column| paths.contains(column.name.as_str()))
        };
        let filters = read.filters.iter().filter(of_files).cloned();
        let Some(filter) = conjunction(filters) else {
            return Ok(());
        };
        let df_schema = DFSchema::try_from(Arc::clone(self.schema))?;
        let Ok(predicate) = read.state.create_physical_expr(filter, &df_schema) else {
            return Ok(());
        };
        let builder = PruningPredicateBuilder::new().with_file_schema(Arc::clone(self.schema));
        let Ok(pruning) = builder.try_build(predicate) else {
            return Ok(());
        };
        let statistics = self.files.iter().map(|file| self.constants(file));
        let statistics = statistics.collect::<Result<Vec<_>>>()?;
        let statistics = PrunableStatistics::new(statistics, Arc::clone(self.schema));
        if let Ok(keep) = pruning.prune(&statistics) {
            let mut keep = keep.into_iter();
            self.files.retain(|_| keep.next().unwrap_or(true));
        }
        Ok(())
    }

    fn constants(&self, file: &ScannedFile) -> Result<Arc<Statistics>> {
        let mut statistics = Statistics::new_unknown(self.schema);
        let carried = carried(self.held, file)?;
        let in_path = carried.into_iter().enumerate();
        let in_path = in_path.filter_map(|(index, carried)| match carried {
            Carried::InPath(value) => Some((index, value)),
            _ => None,
        });
        let time = ScalarValue::TimestampMicrosecond(Some(file.file.time), Some("UTC".into()));
        let version = ScalarValue::Int64(Some(file.file.version));
        let named = [(COMMIT_VERSION, version), (COMMIT_TIMESTAMP, time)];
        let named = named
            .into_iter()
            .filter_map(|(name, value)| Some((self.schema.index_of(name).ok()?, value)));
        for (index, value) in in_path.chain(named) {
            if !value.is_null() {
                statistics.column_statistics[index] = ColumnStatistics {
                    null_count: Precision::Exact(0),
                    min_value: Precision::Exact(value.clone()),
                    max_value: Precision::Exact(value),
                    ..ColumnStatistics::new_unknown()
                };
            }
        }
        Ok(Arc::new(statistics))
    }

    fn marking(&self, columns: &Columns, has_marker: bool) -> Marking {
        let mut read = vec![None; self.held.len()];
        for (position, held) in columns.read.iter().enumerate() {
            read[*held] = Some(position);
        }
        Marking {
            name: self.name.to_owned(),
            options: Arc::clone(self.options),
            held: self.held.to_vec(),
            read,
            marker: has_marker.then_some(columns.read.len()),
            required: columns.required.clone(),
            output: columns.output.clone(),
            schema: Arc::clone(&columns.output_schema),
            scan: columns.scan.clone(),
        }
    }

    /// What the marking has to know of each file.
    fn marked_files(&self, files: &[ScannedFile]) -> Result<Vec<MarkedFile>> {
        let mut of_shape: HashMap<*const Shape, Arc<[Carried]>> = HashMap::new();
        let mut marked = Vec::with_capacity(files.len());
        for file in files {
            let known = of_shape.get(&Arc::as_ptr(&file.shape)).map(Arc::clone);
            let columns = match known {
                Some(known) => known,
                None => {
                    let columns: Arc<[Carried]> = carried(self.held, file)?.into();
                    let same_for_all = !file.shape.columns.iter().any(|column| column.in_path);
                    if same_for_all {
                        of_shape.insert(Arc::as_ptr(&file.shape), Arc::clone(&columns));
                    }
                    columns
                }
            };
            marked.push(MarkedFile {
                version: file.file.version,
                path: Arc::clone(&file.file.path),
                e_tag: file.file.e_tag.clone(),
                time: file.file.time,
                has_marker: self.marker_of(&file.shape).is_some(),
                columns,
            });
        }
        Ok(marked)
    }

    fn marker_of<'s>(&self, shape: &'s Shape) -> Option<&'s str> {
        let column = shape.find(&self.options.marker)?;
        (!column.in_path).then_some(column.name.as_str())
    }

    /// The store, for reading these files.
    fn store(&self, files: &[ScannedFile]) -> Arc<dyn ObjectStore> {
        let files = files.iter().map(|file| {
            let path = below(self.location.prefix(), &file.file.path);
            (path, file.file.clone())
        });
        Arc::new(GuardedStore::new(self.location, files.collect()))
    }

    fn text(
        &self,
        read: &ChangeRead<'_>,
        columns: &Columns,
        format: &TextFormat,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let marked = self.marked_files(&self.files)?;
        let has_marker = marked.iter().any(|file| file.has_marker);
        let spec = ReadSpec {
            format: format.clone(),
            compression: self.options.compression,
            columns: self.read_schema(columns, has_marker),
            all: self.all_columns(),
            batch_size: read.state.config().batch_size(),
            quarantine: self.options.on_invalid == OnInvalid::Quarantine,
            raw: self.wanted == Wanted::Rejected,
        };
        let files = self
            .files
            .iter()
            .zip(marked)
            .map(|(file, marked)| TextFile {
                path: below(self.location.prefix(), &file.file.path),
                size: file.file.size,
                file: Arc::new(marked),
            });
        let scan = TextScan {
            location: self.location.clone(),
            store: self.store(&self.files),
            spec,
            marking: self.marking(columns, has_marker),
            wanted: self.wanted,
        };
        let partitions = read.state.config().target_partitions();
        Ok(Arc::new(TextExec::new(scan, files.collect(), partitions)))
    }

    /// The marker as it is read.
    fn marker(&self) -> FieldRef {
        Arc::new(Field::new(&self.options.marker, DataType::Utf8, true))
    }

    /// What is read of each row, as the source holds it.
    fn read_schema(&self, columns: &Columns, has_marker: bool) -> SchemaRef {
        let held = columns
            .read
            .iter()
            .map(|held| Arc::clone(&self.held[*held]));
        let marker = has_marker.then(|| self.marker());
        Arc::new(Schema::new(held.chain(marker).collect::<Vec<_>>()))
    }

    /// Every column that the files may have, in the order in which a file without a header has them.
    fn all_columns(&self) -> SchemaRef {
        let mut all: Vec<FieldRef> = Vec::new();
        let mut seen: Vec<*const Shape> = Vec::new();
        for file in &self.files {
            if seen.contains(&Arc::as_ptr(&file.shape)) {
                continue;
            }
            seen.push(Arc::as_ptr(&file.shape));
            for column in file.shape.columns.iter().filter(|column| !column.in_path) {
                let held = position(self.held, &column.name).map(|index| &self.held[index]);
                let name = held.map_or(&column.name, |held| held.name());
                if !all.iter().any(|field| field.name() == name) {
                    let data_type = held.map_or(&DataType::Utf8, |held| held.data_type());
                    all.push(Arc::new(Field::new(name, data_type.clone(), true)));
                }
            }
        }
        Arc::new(Schema::new(all))
    }
}

/// Which columns a read needs.
#[derive(Debug)]
struct Columns {
    /// Positions among the source's columns of what is read from the rows.
    read: Vec<usize>,
    /// Those that may not be NULL.
    required: Vec<usize>,
    output: Vec<Output>,
    output_schema: SchemaRef,
    /// Tells this scan from every other one.
    scan: String,
}

impl Columns {
    fn new(scan: &FileScan<'_>, read: &ChangeRead<'_>, reads_all: bool) -> Self {
        let all: Vec<usize> = (0..scan.schema.fields().len()).collect();
        let projected = read.projection.unwrap_or(&all);
        let fields = projected
            .iter()
            .map(|index| Arc::clone(&scan.schema.fields()[*index]));
        let output_schema = Arc::new(Schema::new(fields.collect::<Vec<_>>()));
        let output = projected.iter().map(|index| {
            if *index < scan.held.len() {
                Output::Held(*index)
            } else {
                Output::Change(Arc::clone(&scan.schema.fields()[*index]))
            }
        });
        let names = scan.options.key.iter().chain(&scan.options.sequence);
        let required = names.filter_map(|name| position(scan.held, name));
        let required: Vec<usize> = required.collect();
        let mut wanted: Vec<usize> = projected
            .iter()
            .copied()
            .filter(|index| *index < scan.held.len())
            .chain(required.iter().copied())
            .chain((0..scan.held.len()).filter(|_| reads_all))
            .collect();
        wanted.sort_unstable();
        wanted.dedup();
        Self {
            read: wanted,
            required,
            output: output.collect(),
            output_schema,
            scan: Uuid::new_v4().to_string(),
        }
    }
}

/// The columns that stand in the path of any of these files.
fn in_path(files: &[ScannedFile]) -> HashSet<&str> {
    let mut known: HashSet<*const Shape> = HashSet::new();
    let files = files
        .iter()
        .filter(|file| known.insert(Arc::as_ptr(&file.shape)));
    let columns = files.flat_map(|file| &file.shape.columns);
    let columns = columns.filter(|column| column.in_path);
    columns.map(|column| column.name.as_str()).collect()
}

fn position(held: &[FieldRef], name: &str) -> Option<usize> {
    find(held.iter().map(|field| field.name().as_str()), name)
}

/// How a file carries each of the source's columns.
fn carried(held: &[FieldRef], file: &ScannedFile) -> Result<Vec<Carried>> {
    let values: HashMap<String, Option<String>> = folder_values(&file.file.path).collect();
    let of_column = |field: &FieldRef| match file.shape.find(field.name()) {
        None => Ok(Carried::Absent),
        Some(column) if column.in_path => {
            let value = values.get(&column.name).cloned().flatten();
            let value = ScalarValue::Utf8(value);
            let cast = value.cast_to(field.data_type()).map_err(|_| {
                Error::invalid(format!(
                    "{}: the folder {}={value} gives the column {:?} a value that is not {}; rename the folder, or declare the column with \
                     another type",
                    file.file.path,
                    column.name,
                    field.name(),
                    field.data_type()
                ))
            });
            cast.map(Carried::InPath)
        }
        Some(_) => Ok(Carried::InRows),
    };
    held.iter().map(of_column).collect()
}
