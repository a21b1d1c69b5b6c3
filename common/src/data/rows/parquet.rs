//! Parquet files, as the hub keeps data sets.

use std::path::Path;
use std::sync::Arc;

use crate::{Context, Error, Result, error};
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row as Columns};
use serde_json::{Map, Value, json};

use super::{Row, Sink};
use crate::data::Place;

pub fn read(path: &Path, sink: Sink) -> Result<()> {
    let named = || path.display().to_string();
    let file = fs_err::File::open(path)?;
    let size = file.metadata()?.len();
    let reader =
        SerializedFileReader::new(file.into_parts().0).map_err(Error::malformed).with_context(named)?;
    let total = reader.metadata().file_metadata().num_rows().max(1) as u64;
    let file = Arc::new(path.to_path_buf());
    for (index, row) in reader.get_row_iter(None).map_err(Error::malformed).with_context(named)?.enumerate() {
        let row = row.map_err(Error::malformed).with_context(named)?;
        let place = Place { file: file.clone(), row: index + 1, is_line: false };
        let position = (size as f64 * (index as f64 + 1.0) / total as f64) as u64;
        if sink(Row { place, value: object(&row), position })?.is_break() {
            break;
        }
    }
    Ok(())
}

fn object(row: &Columns) -> Result<Value> {
    let fields = row.get_column_iter().map(|(name, field)| Ok((name.clone(), value(field)?)));
    Ok(Value::Object(fields.collect::<Result<Map<_, _>>>()?))
}

fn value(field: &Field) -> Result<Value> {
    Ok(match field {
        Field::Null => Value::Null,
        Field::Bool(value) => json!(value),
        Field::Byte(value) => json!(value),
        Field::Short(value) => json!(value),
        Field::Int(value) | Field::Date(value) | Field::TimeMillis(value) => json!(value),
        Field::Long(value)
        | Field::TimeMicros(value)
        | Field::TimestampMillis(value)
        | Field::TimestampMicros(value) => json!(value),
        Field::UByte(value) => json!(value),
        Field::UShort(value) => json!(value),
        Field::UInt(value) => json!(value),
        Field::ULong(value) => json!(value),
        Field::Float16(value) => json!(value.to_f32()),
        Field::Float(value) => json!(value),
        Field::Double(value) => json!(value),
        Field::Str(text) => json!(text),
        // Writers that do not mark their texts as such store them as bytes.
        Field::Bytes(bytes) => {
            json!(
                bytes
                    .as_utf8()
                    .map_err(|_| error!(Row, "bytes that are not UTF-8, where a text is expected"))?
            )
        }
        Field::Decimal(_) => return Err(error!(Row, "a decimal number, which no column of examples holds")),
        Field::Group(row) => object(row)?,
        Field::ListInternal(list) => list.elements().iter().map(value).collect::<Result<_>>()?,
        Field::MapInternal(map) => {
            let entry = |(name, of): &(Field, Field)| match name {
                Field::Str(name) => Ok((name.clone(), value(of)?)),
                _ => Err(error!(Row, "a map whose keys are no texts")),
            };
            Value::Object(map.entries().iter().map(entry).collect::<Result<Map<_, _>>>()?)
        }
    })
}
