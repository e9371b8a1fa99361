//! `MERGE WITH SCHEMA EVOLUTION`: columns and fields that the source has and the target lacks come with the commit of the MERGE.
//!
//! ```text
//!  schema of the source ──> what the clauses write of it ──> the target as it will be, into which the MERGE is planned
//! ```
//!
//! The commit adds them to the version on which it is planned, again if need be: see [`crate::delta::evolution`].

use std::sync::Arc;

use arrow::datatypes::{DataType, FieldRef, Fields, Schema};
use datafusion::common::{DFSchemaRef, TableReference};
use datafusion::prelude::SessionContext;
use datafusion::sql::parser::DFParserBuilder;
use datafusion::sql::sqlparser::tokenizer::TokenWithSpan;

use super::delta_table::DeltaTableProvider;
use super::rewrite::{Merge, Written, is_word, verb_start};
use crate::change::{change_columns, metadata_columns};
use crate::delta::DeltaTable;
use crate::delta::evolution::evolved;
use crate::error::{Error, Result};

/// Takes `WITH SCHEMA EVOLUTION` out of a MERGE; says whether it was there.
pub(super) fn take_clause(mut tokens: Vec<TokenWithSpan>) -> (Vec<TokenWithSpan>, bool) {
    let start = verb_start(&tokens);
    let mut words = ["MERGE", "WITH", "SCHEMA", "EVOLUTION"]
        .into_iter()
        .zip(start..);
    let found = words.all(|(word, index)| is_word(tokens.get(index), word));
    if found {
        tokens.drain(start + 1..start + 4);
    }
    (tokens, found)
}

/// The target of a MERGE as it will be, and the columns of the source.
///
/// # Errors
/// When the source cannot be planned, goes by the target's name, or has a column that cannot be added.
pub(super) async fn evolve(
    ctx: &SessionContext,
    table: &DeltaTable,
    tokens: &[TokenWithSpan],
    merge: &Merge,
) -> Result<(DeltaTableProvider, DFSchemaRef)> {
    let source = source_schema(ctx, merge.source_query(tokens)).await?;
    let is_called_alike = |qualifier: Option<&TableReference>| {
        qualifier.is_some_and(|qualifier| qualifier.resolved_eq(&merge.called_as))
    };
    if source
        .iter()
        .any(|(qualifier, _)| is_called_alike(qualifier))
    {
        return Err(Error::invalid(format!(
            "the source of the MERGE goes by the name {}, as its target does; give it another one: USING … AS source",
            merge.called_as
        )));
    }
    let snapshot = table.snapshot().await?;
    let columns = snapshot.layout().schema();
    let of_source = source.as_arrow();
    let is_column = |name: &str| columns.index_of(name).is_ok() || of_source.index_of(name).is_ok();
    let written = merge.written(tokens, is_column);
    let wanted = Arc::new(wanted(&written, of_source, columns));
    refuse_repeated(&wanted, of_source, columns)?;
    let target = match evolved(&snapshot, &wanted)? {
        Some((evolved, _)) => DeltaTableProvider::evolving(&evolved, wanted)?,
        None => DeltaTableProvider::evolving(&snapshot, wanted)?,
    };
    Ok((target, source))
}

/// A sub-query with two columns of one name has `name` and `name:1` for DataFusion, and the second would become a column.
fn refuse_repeated(wanted: &Schema, source: &Schema, target: &Schema) -> Result<()> {
    for field in wanted.fields() {
        let repeated = field.name().rsplit_once(':').filter(|(name, number)| {
            number.parse::<usize>().is_ok() && source.index_of(name).is_ok()
        });
        if let Some((name, _)) = repeated
            && target.index_of(field.name()).is_err()
        {
            return Err(Error::invalid(format!(
                "the source of the MERGE has the column {name:?} more than once; leave it out or give it another name in the SELECT: {name} AS other"
            )));
        }
    }
    Ok(())
}

async fn source_schema(ctx: &SessionContext, query: Vec<TokenWithSpan>) -> Result<DFSchemaRef> {
    let mut statements = DFParserBuilder::new(query).build()?.parse_statements()?;
    let query = statements
        .pop_front()
        .ok_or_else(|| Error::internal("a MERGE without a source"))?;
    let plan = ctx.state().statement_to_plan(query).await?;
    Ok(Arc::clone(plan.schema()))
}

/// What of the source is to be in the target. A star is not of the columns that only change reads have.
fn wanted(written: &[Written], source: &Schema, target: &Schema) -> Schema {
    let of_changes: Vec<FieldRef> = change_columns()
        .into_iter()
        .chain(metadata_columns())
        .collect();
    let is_own = |field: &&FieldRef| {
        target.index_of(field.name()).is_ok()
            || !of_changes
                .iter()
                .any(|change| change.name() == field.name())
    };
    let mut fields = Vec::new();
    for one in written {
        match one {
            Written::All { except } => {
                let own = source.fields().iter().filter(is_own);
                for field in own.filter(|field| !except.contains(field.name())) {
                    add(&mut fields, field);
                }
            }
            Written::Path(path) => {
                if let Some(field) = narrowed(source.fields(), path) {
                    add(&mut fields, &field);
                }
            }
        }
    }
    Schema::new(fields)
}

/// A column with nothing in it but what lies on the path.
fn narrowed(fields: &Fields, path: &[String]) -> Option<FieldRef> {
    let (name, rest) = path.split_first()?;
    let (_, field) = fields.find(name)?;
    if rest.is_empty() {
        return Some(Arc::clone(field));
    }
    let DataType::Struct(inside) = field.data_type() else {
        return None;
    };
    Some(with_fields(field, vec![narrowed(inside, rest)?]))
}

/// Adds a column, or what it has more than the one of its name.
fn add(fields: &mut Vec<FieldRef>, field: &FieldRef) {
    let known = fields.iter_mut().find(|known| known.name() == field.name());
    let Some(known) = known else {
        fields.push(Arc::clone(field));
        return;
    };
    if let (DataType::Struct(inside), DataType::Struct(more)) =
        (known.data_type(), field.data_type())
    {
        let mut inside = inside.to_vec();
        for field in more {
            add(&mut inside, field);
        }
        *known = with_fields(known, inside);
    }
}

fn with_fields(field: &FieldRef, fields: Vec<FieldRef>) -> FieldRef {
    let field = field.as_ref().clone();
    Arc::new(field.with_data_type(DataType::Struct(fields.into())))
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::Field;

    use super::*;

    fn field(name: &str) -> Field {
        Field::new(name, DataType::Int64, true)
    }

    fn structure(name: &str, fields: Vec<Field>) -> Field {
        Field::new(name, DataType::Struct(fields.into()), true)
    }

    fn path(names: &[&str]) -> Written {
        Written::Path(names.iter().map(ToString::to_string).collect())
    }

    fn check(written: &[Written], expected: Vec<Field>) {
        let point = structure(
            "p",
            vec![field("x"), structure("q", vec![field("y"), field("z")])],
        );
        let source = [field("id"), point, field("_change_type"), field("_row_id")];
        let target = Schema::new(vec![field("id"), field("_row_id")]);
        let found = wanted(written, &Schema::new(source.to_vec()), &target);
        assert_eq!(found, Schema::new(expected), "{written:?}");
    }

    #[test]
    fn what_clauses_write_is_wanted() {
        let except = vec!["p".to_owned()];
        check(
            &[Written::All { except }],
            vec![field("id"), field("_row_id")],
        );
        check(&[path(&["nothing"]), path(&["id", "x"])], vec![]);
        check(
            &[
                path(&["p", "q", "z"]),
                path(&["_change_type"]),
                path(&["p", "x"]),
            ],
            vec![
                structure("p", vec![structure("q", vec![field("z")]), field("x")]),
                field("_change_type"),
            ],
        );
        let all = structure(
            "p",
            vec![field("x"), structure("q", vec![field("y"), field("z")])],
        );
        check(&[path(&["p"]), path(&["p", "x"])], vec![all]);
    }
}
