//! Assembles rows from columns, by the levels beside their values.
//!
//! A cell of a column has two levels. The definition level tells how far the path from the row to the
//! value exists: to the value, to a list without elements, or to a null. The repetition level tells which
//! list on this path the cell is the next element of; 0 begins a row.

use parquet::basic::{ConvertedType, LogicalType, Repetition};
use parquet::schema::types::Type;
use serde_json::{Map, Value};

use super::column::{Cells, Column};
use crate::data::RowPlace;
use crate::data::rows::RowLimit;
use crate::{Result, bail, error};

/// A field of the schema with the fields in it.
pub(super) struct Node {
    /// The definition level from which on the value exists.
    definition: i16,
    /// The range of columns below the field, among those that are read.
    columns: std::ops::Range<usize>,
    shape: Shape,
}

enum Shape {
    Value,
    Struct(Vec<(String, Node)>),
    List(Elements, Box<Node>),
    Map(Elements, Box<[Node; 2]>),
}

/// The levels of a list or a map.
struct Elements {
    /// The definition level from which on there is an element.
    definition: i16,
    /// The repetition level of all elements except the first.
    repetition: i16,
}

/// The used columns of a table.
#[derive(Default)]
pub(super) struct Table {
    /// The name and field of each column.
    pub columns: Vec<(String, Node)>,
    /// The indices, among the file's, of the columns that hold the values.
    pub leaves: Vec<usize>,
}

impl Table {
    /// The columns of a schema for which `is_used` is true.
    pub(super) fn new(schema: &Type, is_used: impl Fn(&str) -> bool) -> Result<Self> {
        let mut table = Self::default();
        let mut next = 0;
        for field in schema.get_fields() {
            let count = count_leaves(field);
            if is_used(field.name()) {
                let begin = table.leaves.len();
                table.leaves.extend(next..next + count);
                let mut column = begin;
                let node = Node::new(field, Level::default(), &mut column)?;
                table.columns.push((field.name().to_owned(), node));
            }
            next += count;
        }
        Ok(table)
    }
}

fn count_leaves(field: &Type) -> usize {
    if field.is_primitive() { 1 } else { field.get_fields().iter().map(|field| count_leaves(field)).sum() }
}

/// The levels on the path to a value.
#[derive(Clone, Copy, Default)]
struct Level {
    definition: i16,
    repetition: i16,
}

impl Level {
    fn element(self) -> Self {
        Self { definition: self.definition + 1, repetition: self.repetition + 1 }
    }

    fn elements(self) -> Elements {
        let Self { definition, repetition } = self.element();
        Elements { definition, repetition }
    }
}

impl Node {
    /// The node of a field whose columns begin at `column`.
    fn new(field: &Type, mut level: Level, column: &mut usize) -> Result<Self> {
        let repetition = field.get_basic_info().repetition();
        if repetition == Repetition::REPEATED {
            // Neither in a list nor a map: a list of its own.
            let begin = *column;
            let element = Self::required(field, level.element(), column)?;
            let shape = Shape::List(level.elements(), Box::new(element));
            return Ok(Self { definition: level.definition, columns: begin..*column, shape });
        }
        level.definition += i16::from(repetition == Repetition::OPTIONAL);
        Self::required(field, level, column)
    }

    /// The node of a field, apart from whether its value may be missing.
    fn required(field: &Type, level: Level, column: &mut usize) -> Result<Self> {
        let begin = *column;
        let shape = if field.is_primitive() {
            *column += 1;
            Shape::Value
        } else if is_list(field) {
            let repeated = repeated_child(field)?;
            let element = match is_element(repeated, field) {
                true => Self::required(repeated, level.element(), column)?,
                false => Self::new(&repeated.get_fields()[0], level.element(), column)?,
            };
            Shape::List(level.elements(), Box::new(element))
        } else if is_map(field) {
            let entry = repeated_child(field)?;
            let fields = if entry.is_primitive() { &[][..] } else { entry.get_fields() };
            match fields {
                [key] => {
                    let element = Self::new(key, level.element(), column)?;
                    Shape::List(level.elements(), Box::new(element))
                }
                [key, value] => {
                    let key = Self::new(key, level.element(), column)?;
                    let value = Self::new(value, level.element(), column)?;
                    Shape::Map(level.elements(), Box::new([key, value]))
                }
                _ => bail!(Malformed, "column {:?}: a map of keys and values expected", field.name()),
            }
        } else {
            let node = |field: &std::sync::Arc<Type>| {
                Ok((field.name().to_owned(), Self::new(field, level, column)?))
            };
            Shape::Struct(field.get_fields().iter().map(node).collect::<Result<_>>()?)
        };
        Ok(Self { definition: level.definition, columns: begin..*column, shape })
    }
}

fn is_list(field: &Type) -> bool {
    let information = field.get_basic_info();
    matches!(information.logical_type_ref(), Some(LogicalType::List))
        || information.converted_type() == ConvertedType::LIST
}

fn is_map(field: &Type) -> bool {
    let information = field.get_basic_info();
    matches!(information.logical_type_ref(), Some(LogicalType::Map))
        || matches!(information.converted_type(), ConvertedType::MAP | ConvertedType::MAP_KEY_VALUE)
}

/// The field that a list or a map repeats.
fn repeated_child(field: &Type) -> Result<&Type> {
    match field.get_fields() {
        [child] if child.get_basic_info().repetition() == Repetition::REPEATED => Ok(child),
        _ => bail!(Malformed, "column {:?}: a list or map that repeats nothing", field.name()),
    }
}

/// Whether the repeated field of a list is its element, as in files of old writers, and not a group around
/// the element.
fn is_element(repeated: &Type, list: &Type) -> bool {
    if repeated.is_primitive() || is_list(repeated) {
        return true;
    }
    match repeated.get_fields() {
        [only] => {
            only.get_basic_info().repetition() == Repetition::REPEATED
                || repeated.name() == "array"
                || repeated.name() == format!("{}_tuple", list.name())
        }
        _ => true,
    }
}

/// A row that is being assembled.
pub(super) struct Assembly<'a> {
    /// The columns that are read.
    columns: &'a [Box<dyn Column>],
    cells: &'a [Cells],
    /// The next cell and the next value of each column.
    next: Vec<(usize, usize)>,
    place: &'a RowPlace,
    limit: RowLimit,
    /// The number of bytes of the row so far.
    pub bytes: usize,
}

impl<'a> Assembly<'a> {
    pub(super) fn new(
        columns: &'a [Box<dyn Column>],
        cells: &'a [Cells],
        place: &'a RowPlace,
        limit: RowLimit,
    ) -> Self {
        Self { columns, cells, next: vec![(0, 0); cells.len()], place, limit, bytes: 0 }
    }

    /// Assembles the row. An error of the kind `Row` concerns this row, any other the whole file.
    pub(super) fn row(&mut self, table: &Table) -> Result<Value> {
        let mut row = Map::new();
        for (name, node) in &table.columns {
            row.insert(name.clone(), self.value(node)?);
        }
        let is_left = |(next, cells): (&(usize, usize), &Cells)| next.0 < cells.definitions.len();
        match self.next.iter().zip(self.cells).any(is_left) {
            true => bail!(Malformed, "columns that do not belong together"),
            false => Ok(Value::Object(row)),
        }
    }

    fn value(&mut self, node: &Node) -> Result<Value> {
        if node.columns.is_empty() {
            return Ok(Value::Null);
        }
        let first = node.columns.start;
        let definition = self.cells[first].definitions.get(self.next[first].0);
        let definition = *definition.ok_or_else(|| error!(Malformed, "a column that ends within a row"))?;
        if definition < node.definition {
            self.pass(node);
            return Ok(Value::Null);
        }
        match &node.shape {
            Shape::Value => {
                let (place, value) = &mut self.next[first];
                (*place, *value) = (*place + 1, *value + 1);
                let index = *value - 1;
                self.add(self.columns[first].size(index))?;
                self.columns[first].value(index)
            }
            // Arrow gives every object of a column the keys of all, so that null is a key that is not there.
            Shape::Struct(fields) => {
                let mut object = Map::new();
                for (name, node) in fields {
                    let value = self.value(node)?;
                    if !value.is_null() {
                        self.add(name.len())?;
                        object.insert(name.clone(), value);
                    }
                }
                Ok(Value::Object(object))
            }
            Shape::List(elements, _) if definition < elements.definition => {
                self.pass(node);
                Ok(Value::Array(Vec::new()))
            }
            Shape::List(elements, element) => {
                let mut list = Vec::new();
                loop {
                    self.add(1)?;
                    list.push(self.value(element)?);
                    if !self.has_next(first, elements)? {
                        return Ok(Value::Array(list));
                    }
                }
            }
            Shape::Map(elements, _) if definition < elements.definition => {
                self.pass(node);
                Ok(Value::Object(Map::new()))
            }
            Shape::Map(elements, entry) => {
                let mut map = Map::new();
                loop {
                    let Value::String(key) = self.value(&entry[0])? else {
                        bail!(Row, "a map whose keys are no texts");
                    };
                    let value = self.value(&entry[1])?;
                    map.insert(key, value);
                    if !self.has_next(first, elements)? {
                        return Ok(Value::Object(map));
                    }
                }
            }
        }
    }

    /// Whether the next cell of a column is another of these elements.
    fn has_next(&self, column: usize, elements: &Elements) -> Result<bool> {
        match self.cells[column].repetitions.get(self.next[column].0) {
            Some(next) if *next > elements.repetition => bail!(Malformed, "an element of no list"),
            next => Ok(next == Some(&elements.repetition)),
        }
    }

    /// Skips a cell of every column below a value that is null or empty.
    fn pass(&mut self, node: &Node) {
        for (place, _) in &mut self.next[node.columns.clone()] {
            *place += 1;
        }
    }

    fn add(&mut self, bytes: usize) -> Result<()> {
        self.bytes = self.bytes.saturating_add(bytes);
        match self.bytes > self.limit.bytes {
            true => Err(self.limit.exceeded(self.place, "")),
            false => Ok(()),
        }
    }
}
