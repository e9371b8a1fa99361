//! Fits columns to the types that a source holds, without losing anything.
//!
//! A value fits if it is the same value in the wanted type: casting it back gives what was there. Text fits if all of it is read.
//! Whatever does not fit is NULL in the result and is reported.

use std::sync::Arc;

use arrow::array::{
    Array, ArrayRef, AsArray, BooleanArray, ListArray, RecordBatch, RecordBatchOptions,
    StringArray, StructArray, new_null_array,
};
use arrow::buffer::BooleanBuffer;
use arrow::compute::kernels::cmp::distinct;
use arrow::compute::kernels::zip::zip;
use arrow::compute::{can_cast_types, cast, is_not_null, nullif};
use arrow::datatypes::{DataType, FieldRef, Fields, Float64Type, SchemaRef, TimeUnit};
use arrow::util::display::array_value_to_string;

use crate::error::Result;

/// How much of a value is shown.
const SHOWN_CHARACTERS: usize = 100;
/// All smaller whole numbers are 64-bit floats.
const EXACT_FLOATS: f64 = 9_007_199_254_740_992.0;

/// A value that is none of the wanted type.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Misfit {
    /// Its row in the batch, from 0.
    pub row: usize,
    /// The name of the column.
    pub column: String,
    /// The value, as text.
    pub value: String,
    /// The wanted type.
    pub expected: DataType,
}

/// A column in the wanted type, and the rows whose value it could not take.
type Fitted = (ArrayRef, BooleanBuffer);

/// The columns of `batch` in the types of `wanted`, which has as many; and the values that have no place there, NULL in the
/// result. A column of the wanted type already costs nothing.
///
/// # Errors
/// When the batch does not have the columns that are wanted.
pub(super) fn fit(batch: &RecordBatch, wanted: &SchemaRef) -> Result<(RecordBatch, Vec<Misfit>)> {
    let mut misfits = vec![];
    let mut columns = Vec::with_capacity(batch.num_columns());
    for (column, field) in batch.columns().iter().zip(wanted.fields()) {
        if column.data_type() == field.data_type() {
            columns.push(Arc::clone(column));
            continue;
        }
        let (fitted, lost) = fit_column(column, field.data_type())?;
        misfits.extend(lost.set_indices().map(|row| Misfit {
            row,
            column: field.name().clone(),
            value: shown(&array_value_to_string(column, row).unwrap_or_default()),
            expected: field.data_type().clone(),
        }));
        columns.push(fitted);
    }
    let options = RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    let batch = RecordBatch::try_new_with_options(Arc::clone(wanted), columns, &options)?;
    Ok((batch, misfits))
}

/// A value as messages show it: its beginning.
pub(super) fn shown(value: &str) -> String {
    match value.char_indices().nth(SHOWN_CHARACTERS) {
        Some((end, _)) => format!("{}…", &value[..end]),
        None => value.to_owned(),
    }
}

fn fit_column(column: &ArrayRef, to: &DataType) -> Result<Fitted> {
    use DataType::{Dictionary, List, Null, RunEndEncoded, Struct};
    if column.data_type() == to {
        return Ok((Arc::clone(column), none_of(column)));
    }
    let (fitted, lost) = match (column.data_type(), to) {
        (Null, _) => (new_null_array(to, column.len()), none_of(column)),
        (Dictionary(_, plain), _) => return fit_column(&cast(column, plain)?, to),
        (RunEndEncoded(_, plain), _) => return fit_column(&cast(column, plain.data_type())?, to),
        (from, _) if is_text(from) => fit_text(column, to)?,
        (Struct(_), Struct(fields)) => fit_struct(column.as_struct(), fields)?,
        (from, List(item)) => match plain_list(from) {
            Some(plain) => fit_list(cast(column, &plain)?.as_list(), item)?,
            None => nothing(column, to),
        },
        (from, to) if is_comparable(from, to) => fit_value(column, to)?,
        _ => nothing(column, to),
    };
    if lost.count_set_bits() == 0 {
        return Ok((fitted, lost));
    }
    let fitted = nullif(&fitted, &BooleanArray::new(lost.clone(), None))?;
    Ok((fitted, lost))
}

fn none_of(column: &ArrayRef) -> BooleanBuffer {
    BooleanBuffer::new_unset(column.len())
}

/// No value of a column has a place in the type.
fn nothing(column: &ArrayRef, to: &DataType) -> Fitted {
    let lost = match column.logical_nulls() {
        Some(nulls) => nulls.inner().clone(),
        None => BooleanBuffer::new_set(column.len()),
    };
    (new_null_array(to, column.len()), lost)
}

fn is_text(data_type: &DataType) -> bool {
    matches!(
        data_type,
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View
    )
}

/// The type of a list in the layout that sources hold, if it is a list.
fn plain_list(data_type: &DataType) -> Option<DataType> {
    use DataType::{FixedSizeList, LargeList, LargeListView, List, ListView};
    match data_type {
        List(item) | LargeList(item) | ListView(item) | LargeListView(item) => {
            Some(List(Arc::clone(item)))
        }
        FixedSizeList(item, _) => Some(List(Arc::clone(item))),
        _ => None,
    }
}

/// Whether values of two types can be the same at all. A number is no time, whatever its bits say: its unit is not known.
fn is_comparable(from: &DataType, to: &DataType) -> bool {
    let is_flat =
        |data_type: &DataType| !data_type.is_nested() || matches!(data_type, DataType::Map(_, _));
    let is_number =
        |data_type: &DataType| data_type.is_numeric() || *data_type == DataType::Boolean;
    can_cast_types(from, to)
        && can_cast_types(to, from)
        && is_flat(from)
        && is_flat(to)
        && !(is_number(from) && to.is_temporal())
        && !(from.is_temporal() && is_number(to))
}

/// Casts values and back again.
fn fit_value(column: &ArrayRef, to: &DataType) -> Result<Fitted> {
    let Ok(fitted) = cast(column, to) else {
        return Ok(nothing(column, to));
    };
    let back = cast(&fitted, column.data_type())?;
    let lost = if to.is_nested() {
        BooleanBuffer::collect_bool(column.len(), |row| {
            column.slice(row, 1).to_data() != back.slice(row, 1).to_data()
        })
    } else {
        distinct(column, &back)?.values().clone()
    };
    Ok((fitted, lost))
}

fn fit_struct(column: &StructArray, fields: &Fields) -> Result<Fitted> {
    let mut lost = BooleanBuffer::new_unset(column.len());
    let mut children = Vec::with_capacity(fields.len());
    for field in fields {
        let Some(child) = column.column_by_name(field.name()) else {
            children.push(new_null_array(field.data_type(), column.len()));
            continue;
        };
        let (child, lost_here) = fit_column(child, field.data_type())?;
        lost = &lost | &lost_here;
        children.push(child);
    }
    for (field, child) in column.fields().iter().zip(column.columns()) {
        if fields.find(field.name()).is_none() {
            lost = &lost | &nothing(child, &DataType::Null).1;
        }
    }
    if let Some(nulls) = column.nulls() {
        lost = &lost & nulls.inner();
    }
    let whole: ArrayRef = Arc::new(column.clone());
    let to = DataType::Struct(fields.clone());
    let nulls = column.nulls().cloned();
    Ok(
        match StructArray::try_new_with_length(fields.clone(), children, nulls, column.len()) {
            Ok(fitted) => (Arc::new(fitted), lost),
            Err(_) => nothing(&whole, &to),
        },
    )
}

fn fit_list(column: &ListArray, item: &FieldRef) -> Result<Fitted> {
    let (values, lost_items) = fit_column(column.values(), item.data_type())?;
    let lost = BooleanBuffer::collect_bool(column.len(), |row| {
        let (start, length) = (column.value_offsets()[row], column.value_length(row));
        let (start, length) = (usize::try_from(start), usize::try_from(length));
        match (start, length) {
            (Ok(start), Ok(length)) if column.is_valid(row) => {
                lost_items.slice(start, length).count_set_bits() > 0
            }
            _ => false,
        }
    });
    let whole: ArrayRef = Arc::new(column.clone());
    let (offsets, nulls) = (column.offsets().clone(), column.nulls().cloned());
    Ok(
        match ListArray::try_new(Arc::clone(item), offsets, values, nulls) {
            Ok(fitted) => (Arc::new(fitted), lost),
            Err(_) => nothing(&whole, &DataType::List(Arc::clone(item))),
        },
    )
}

/// Reads text.
fn fit_text(column: &ArrayRef, to: &DataType) -> Result<Fitted> {
    if is_text(to) || matches!(to, DataType::Binary) {
        return Ok((cast(column, to)?, none_of(column)));
    }
    if to.is_nested() || !can_cast_types(&DataType::Utf8, to) {
        return Ok(nothing(column, to));
    }
    let column = cast(column, &DataType::Utf8)?;
    let Ok(mut fitted) = cast(&column, to) else {
        return Ok(nothing(&column, to));
    };
    if to.is_integer() && fitted.null_count() > column.null_count() {
        fitted = with_whole_numbers(&column, fitted)?;
    }
    let mut lost = none_of(&column);
    if fitted.null_count() > column.null_count() {
        lost = BooleanBuffer::collect_bool(column.len(), |row| {
            column.is_valid(row) && fitted.is_null(row)
        });
    }
    if let Some(cut) = cut_texts(column.as_string(), to) {
        lost = &lost | &cut;
    }
    Ok((fitted, lost))
}

/// Adds the integers that are written as `1.0` or `1e3`.
fn with_whole_numbers(column: &ArrayRef, fitted: ArrayRef) -> Result<ArrayRef> {
    let floats = cast(column, &DataType::Float64)?;
    let is_broken: BooleanArray = floats
        .as_primitive::<Float64Type>()
        .iter()
        .map(|value| {
            Some(!value.is_some_and(|value| value.fract() == 0.0 && value.abs() < EXACT_FLOATS))
        })
        .collect();
    let integers = nullif(&cast(&floats, fitted.data_type())?, &is_broken)?;
    Ok(zip(&is_not_null(&fitted)?, &fitted, &integers)?)
}

/// The texts that say more than the type can hold, for types that would drop it silently.
fn cut_texts(texts: &StringArray, to: &DataType) -> Option<BooleanBuffer> {
    use DataType::{
        Date32, Decimal32, Decimal64, Decimal128, Decimal256, Time32, Time64, Timestamp,
    };
    let digits = match to {
        Decimal32(_, scale) | Decimal64(_, scale) | Decimal128(_, scale) | Decimal256(_, scale) => {
            usize::try_from(*scale).unwrap_or(0)
        }
        Time32(unit) | Time64(unit) | Timestamp(unit, _) => match unit {
            TimeUnit::Second => 0,
            TimeUnit::Millisecond => 3,
            TimeUnit::Microsecond => 6,
            TimeUnit::Nanosecond => 9,
        },
        Date32 => {
            return Some(BooleanBuffer::collect_bool(texts.len(), |row| {
                texts.is_valid(row) && texts.value(row).contains(':')
            }));
        }
        _ => return None,
    };
    Some(BooleanBuffer::collect_bool(texts.len(), |row| {
        texts.is_valid(row) && fraction_digits(texts.value(row)) > digits
    }))
}

/// How many digits after the point say something.
fn fraction_digits(text: &str) -> usize {
    let Some((_, fraction)) = text.split_once('.') else {
        return 0;
    };
    let digits = fraction.find(|character: char| !character.is_ascii_digit());
    let digits = &fraction[..digits.unwrap_or(fraction.len())];
    digits.trim_end_matches('0').len()
}

#[cfg(test)]
mod tests {
    use arrow::array::{
        Date32Array, Decimal128Array, Float64Array, Int32Array, Int64Array,
        TimestampMicrosecondArray, TimestampNanosecondArray,
    };
    use arrow::datatypes::{Field, Int64Type, Schema};

    use super::*;

    fn fitted(column: ArrayRef, to: &DataType) -> (ArrayRef, Vec<Misfit>) {
        let from = Field::new("a", column.data_type().clone(), true);
        let batch = RecordBatch::try_new(Arc::new(Schema::new(vec![from])), vec![column]).unwrap();
        let wanted = Arc::new(Schema::new(vec![Field::new("a", to.clone(), true)]));
        let (batch, misfits) = fit(&batch, &wanted).unwrap();
        (Arc::clone(batch.column(0)), misfits)
    }

    fn check(
        column: impl Array + 'static,
        expected: impl Array + 'static,
        misfits: &[(usize, &str)],
    ) {
        let (found, lost) = fitted(Arc::new(column), expected.data_type());
        assert_eq!(found.to_data(), expected.to_data());
        let lost: Vec<(usize, &str)> = lost
            .iter()
            .map(|misfit| (misfit.row, misfit.value.as_str()))
            .collect();
        assert_eq!(lost, misfits);
    }

    fn texts(values: &[&str]) -> StringArray {
        StringArray::from(values.to_vec())
    }

    #[test]
    fn numbers_keep_their_value() {
        check(
            Int32Array::from(vec![Some(1), None]),
            Int64Array::from(vec![Some(1), None]),
            &[],
        );
        check(
            Int64Array::from(vec![1, 1 << 40]),
            Int32Array::from(vec![Some(1), None]),
            &[(1, "1099511627776")],
        );
        check(
            Float64Array::from(vec![Some(2.0), Some(1.5), None, Some(1e30)]),
            Int64Array::from(vec![Some(2), None, None, None]),
            &[(1, "1.5"), (3, "1e30")],
        );
        check(
            Int64Array::from(vec![1, (1 << 53) + 1]),
            Float64Array::from(vec![Some(1.0), None]),
            &[(1, "9007199254740993")],
        );
        check(
            Decimal128Array::from(vec![100, 150])
                .with_precision_and_scale(10, 2)
                .unwrap(),
            Int64Array::from(vec![Some(1), None]),
            &[(1, "1.50")],
        );
    }

    #[test]
    fn times_are_not_cut() {
        check(
            TimestampNanosecondArray::from(vec![1_000, 1_001]),
            TimestampMicrosecondArray::from(vec![Some(1), None]),
            &[(1, "1970-01-01T00:00:00.000001001")],
        );
        check(
            TimestampMicrosecondArray::from(vec![0, 1]),
            Date32Array::from(vec![Some(0), None]),
            &[(1, "1970-01-01T00:00:00.000001")],
        );
        check(
            Int64Array::from(vec![Some(1), None]),
            TimestampMicrosecondArray::from(vec![None, None]),
            &[(0, "1")],
        );
        check(
            TimestampMicrosecondArray::from(vec![5]).with_timezone("+00:00"),
            TimestampMicrosecondArray::from(vec![5]).with_timezone("UTC"),
            &[],
        );
    }

    #[test]
    fn text_is_read() {
        check(
            texts(&["1", "1.0", "1.5", "x", "2e3"]),
            Int64Array::from(vec![Some(1), Some(1), None, None, Some(2000)]),
            &[(2, "1.5"), (3, "x")],
        );
        check(
            texts(&["1.20", "1.234"]),
            Decimal128Array::from(vec![Some(120), None])
                .with_precision_and_scale(10, 2)
                .unwrap(),
            &[(1, "1.234")],
        );
        check(
            texts(&["1970-01-01T00:00:00.000001", "1970-01-01T00:00:00.0000001"]),
            TimestampMicrosecondArray::from(vec![Some(1), None]),
            &[(1, "1970-01-01T00:00:00.0000001")],
        );
        check(
            texts(&["1970-01-02", "1970-01-02T10:00:00"]),
            Date32Array::from(vec![Some(1), None]),
            &[(1, "1970-01-02T10:00:00")],
        );
        check(Int64Array::from(vec![7]), texts(&["7"]), &[]);
    }

    #[test]
    fn nested_values_are_fitted_inside() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([
            Some(vec![Some(1), Some(2)]),
            None,
            Some(vec![Some(1 << 40)]),
        ]);
        let item = Arc::new(Field::new_list_field(DataType::Int32, true));
        let (found, misfits) = fitted(Arc::new(list), &DataType::List(item));
        assert_eq!(misfits.len(), 1);
        assert_eq!(misfits[0].row, 2);
        assert!(found.is_valid(0) && found.is_null(1) && found.is_null(2));
        let inner = Arc::new(Field::new("x", DataType::Utf8, true));
        let texts: ArrayRef = Arc::new(texts(&["1", "y"]));
        let column = StructArray::from(vec![(inner, texts)]);
        let to = Fields::from(vec![Field::new("x", DataType::Int64, true)]);
        let (found, misfits) = fitted(Arc::new(column), &DataType::Struct(to));
        assert_eq!(misfits.len(), 1);
        let x = found.as_struct().column(0).as_primitive::<Int64Type>();
        assert_eq!(x.value(0), 1);
        assert!(found.is_null(1));
    }

    #[test]
    fn types_without_a_way_between_them_are_misfits() {
        let list = ListArray::from_iter_primitive::<Int64Type, _, _>([Some(vec![Some(1)]), None]);
        let (found, misfits) = fitted(Arc::new(list), &DataType::Int64);
        assert_eq!(found.null_count(), 2);
        assert_eq!(misfits.len(), 1);
        assert_eq!(misfits[0].expected, DataType::Int64);
    }
}
