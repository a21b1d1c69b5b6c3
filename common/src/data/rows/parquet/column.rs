//! One column of a parquet file, read row by row.

use std::mem::size_of;
use std::sync::Arc;

use parquet::basic::{ConvertedType, LogicalType, Type};
use parquet::column::page::PageReader;
use parquet::column::reader::ColumnReaderImpl;
use parquet::data_type::{
    AsBytes, BoolType, ByteArray, ByteArrayType, DataType, DoubleType, FixedLenByteArray,
    FixedLenByteArrayType, FloatType, Int32Type, Int64Type, Int96, Int96Type,
};
use parquet::errors;
use parquet::schema::types::ColumnDescriptor;
use serde_json::Value;

use crate::{Result, error};

/// The capacity for values that is kept from one row to the next.
const KEPT: usize = 1 << 12;

/// The definition and repetition levels of a column's cells in one row.
#[derive(Default)]
pub(super) struct Cells {
    /// The definition level of each cell: the depth to which the path to its value exists.
    pub definitions: Vec<i16>,
    /// The repetition level of each cell: the list that the cell continues; 0 begins the row.
    pub repetitions: Vec<i16>,
}

/// A column whose type of values is hidden.
pub(super) trait Column {
    /// Reads the next row into `cells`, and returns whether there is one.
    fn read(&mut self, cells: &mut Cells) -> errors::Result<bool>;
    /// The number of bytes of the row's value at `index`.
    fn size(&self, index: usize) -> usize;
    /// The row's value at `index`, null values not counted.
    fn value(&self, index: usize) -> Result<Value>;
}

/// Opens the column with the given description.
pub(super) fn open(description: &Arc<ColumnDescriptor>, pages: Box<dyn PageReader>) -> Box<dyn Column> {
    fn typed<T: DataType>(description: &Arc<ColumnDescriptor>, pages: Box<dyn PageReader>) -> Box<dyn Column>
    where
        T::T: Cell,
    {
        let kind = Kind::of(description);
        let reader = ColumnReaderImpl::<T>::new(description.clone(), pages);
        Box::new(Typed { reader, description: description.clone(), kind, values: Vec::new() })
    }
    match description.physical_type() {
        Type::BOOLEAN => typed::<BoolType>(description, pages),
        Type::INT32 => typed::<Int32Type>(description, pages),
        Type::INT64 => typed::<Int64Type>(description, pages),
        Type::INT96 => typed::<Int96Type>(description, pages),
        Type::FLOAT => typed::<FloatType>(description, pages),
        Type::DOUBLE => typed::<DoubleType>(description, pages),
        Type::BYTE_ARRAY => typed::<ByteArrayType>(description, pages),
        Type::FIXED_LEN_BYTE_ARRAY => typed::<FixedLenByteArrayType>(description, pages),
    }
}

/// The meaning of a value, where the physical type alone does not tell it.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Plain,
    Unsigned,
    Half,
    Decimal,
}

impl Kind {
    fn of(description: &ColumnDescriptor) -> Self {
        use ConvertedType as Converted;
        match (description.logical_type_ref(), description.converted_type()) {
            (Some(LogicalType::Decimal(_)), _) | (_, Converted::DECIMAL) => Self::Decimal,
            (Some(LogicalType::Integer(integer)), _) if !integer.is_signed => Self::Unsigned,
            (Some(LogicalType::Float16), _) => Self::Half,
            (_, Converted::UINT_8 | Converted::UINT_16 | Converted::UINT_32 | Converted::UINT_64) => {
                Self::Unsigned
            }
            _ => Self::Plain,
        }
    }
}

struct Typed<T: DataType> {
    reader: ColumnReaderImpl<T>,
    description: Arc<ColumnDescriptor>,
    kind: Kind,
    values: Vec<T::T>,
}

impl<T: DataType> Column for Typed<T>
where
    T::T: Cell,
{
    fn read(&mut self, cells: &mut Cells) -> errors::Result<bool> {
        cells.definitions.clear();
        cells.repetitions.clear();
        self.values.clear();
        self.values.shrink_to(KEPT);
        let (rows, _, levels) = self.reader.read_records(
            1,
            Some(&mut cells.definitions),
            Some(&mut cells.repetitions),
            &mut self.values,
        )?;
        // A column without levels has one value in each row.
        if self.description.max_def_level() == 0 {
            cells.definitions.resize(levels, 0);
        }
        if self.description.max_rep_level() == 0 {
            cells.repetitions.resize(levels, 0);
        }
        Ok(rows == 1)
    }

    fn size(&self, index: usize) -> usize {
        self.values.get(index).map_or(0, Cell::size)
    }

    fn value(&self, index: usize) -> Result<Value> {
        let value = self.values.get(index).ok_or_else(|| error!(Malformed, "a value is missing"))?;
        match self.kind {
            Kind::Decimal => Err(error!(Row, "a decimal number, which no column of examples holds")),
            kind => value.value(kind),
        }
    }
}

/// A physical type of values.
trait Cell {
    fn value(&self, kind: Kind) -> Result<Value>;

    fn size(&self) -> usize
    where
        Self: Sized,
    {
        size_of::<Self>()
    }
}

impl Cell for bool {
    fn value(&self, _: Kind) -> Result<Value> {
        Ok((*self).into())
    }
}

impl Cell for i32 {
    fn value(&self, kind: Kind) -> Result<Value> {
        Ok(if kind == Kind::Unsigned { (*self as u32).into() } else { (*self).into() })
    }
}

impl Cell for i64 {
    fn value(&self, kind: Kind) -> Result<Value> {
        Ok(if kind == Kind::Unsigned { (*self as u64).into() } else { (*self).into() })
    }
}

impl Cell for Int96 {
    fn value(&self, _: Kind) -> Result<Value> {
        Ok(self.to_millis().into())
    }
}

impl Cell for f32 {
    fn value(&self, _: Kind) -> Result<Value> {
        Ok((*self).into())
    }
}

impl Cell for f64 {
    fn value(&self, _: Kind) -> Result<Value> {
        Ok((*self).into())
    }
}

impl Cell for ByteArray {
    fn value(&self, _: Kind) -> Result<Value> {
        text(self.as_bytes())
    }

    fn size(&self) -> usize {
        self.len()
    }
}

impl Cell for FixedLenByteArray {
    fn value(&self, kind: Kind) -> Result<Value> {
        match (kind, self.as_bytes()) {
            (Kind::Half, &[low, high]) => Ok(half::f16::from_le_bytes([low, high]).to_f32().into()),
            (_, bytes) => text(bytes),
        }
    }

    fn size(&self) -> usize {
        self.len()
    }
}

/// The text of bytes, since some writers store texts as unmarked bytes.
fn text(bytes: &[u8]) -> Result<Value> {
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.into()),
        Err(_) => Err(error!(Row, "bytes that are not UTF-8, where a text is expected")),
    }
}
