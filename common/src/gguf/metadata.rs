//! The keys and values in front of the tensors.

use crate::{Result, bail};

/// A value of the metadata.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// An unsigned number of 32 bits.
    U32(u32),
    /// A signed number of 32 bits.
    I32(i32),
    /// A float of 32 bits.
    F32(f32),
    /// True or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// Signed numbers of 32 bits.
    I32s(Vec<i32>),
    /// Floats of 32 bits.
    F32s(Vec<f32>),
    /// True or false, for each of several.
    Bools(Vec<bool>),
    /// Texts.
    Texts(Vec<String>),
}

/// The numbers that stand for the types of values in a file.
const U32: u32 = 4;
const I32: u32 = 5;
const F32: u32 = 6;
const BOOL: u32 = 7;
const TEXT: u32 = 8;
const ARRAY: u32 = 9;

/// Keys with values, in the order in which they are written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Metadata {
    entries: Vec<(String, Value)>,
}

impl Metadata {
    /// Sets a key, which keeps its place where it has been set before.
    pub fn set(&mut self, key: impl Into<String>, value: Value) {
        let key = key.into();
        match self.entries.iter_mut().find(|(found, _)| *found == key) {
            Some((_, found)) => *found = value,
            None => self.entries.push((key, value)),
        }
    }

    /// Sets a key to a number of 32 bits without a sign, which the format takes for all counts.
    pub fn set_count(&mut self, key: impl Into<String>, count: usize) -> Result<()> {
        let key = key.into();
        let Ok(count) = u32::try_from(count) else {
            bail!(TooLarge, "{key} is {count}, a GGUF file holds numbers up to {}", u32::MAX);
        };
        self.set(key, Value::U32(count));
        Ok(())
    }

    /// Sets a key to a text.
    pub fn set_text(&mut self, key: impl Into<String>, text: impl Into<String>) {
        self.set(key, Value::Text(text.into()));
    }

    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(found, _)| found == key).map(|(_, value)| value)
    }

    /// All keys with their values, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.entries.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The number of keys.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Writes all keys and values.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        for (key, value) in &self.entries {
            write_text(key, out);
            value.write(out);
        }
    }
}

impl Value {
    fn write(&self, out: &mut Vec<u8>) {
        fn array<T>(kind: u32, items: &[T], out: &mut Vec<u8>, write: impl Fn(&T, &mut Vec<u8>)) {
            out.extend(ARRAY.to_le_bytes());
            out.extend(kind.to_le_bytes());
            out.extend((items.len() as u64).to_le_bytes());
            items.iter().for_each(|item| write(item, out));
        }
        let scalar = |kind: u32, bytes: &[u8], out: &mut Vec<u8>| {
            out.extend(kind.to_le_bytes());
            out.extend(bytes);
        };
        match self {
            Self::U32(value) => scalar(U32, &value.to_le_bytes(), out),
            Self::I32(value) => scalar(I32, &value.to_le_bytes(), out),
            Self::F32(value) => scalar(F32, &value.to_le_bytes(), out),
            Self::Bool(value) => scalar(BOOL, &[u8::from(*value)], out),
            Self::Text(text) => {
                out.extend(TEXT.to_le_bytes());
                write_text(text, out);
            }
            Self::I32s(values) => array(I32, values, out, |value, out| out.extend(value.to_le_bytes())),
            Self::F32s(values) => array(F32, values, out, |value, out| out.extend(value.to_le_bytes())),
            Self::Bools(values) => array(BOOL, values, out, |value, out| out.push(u8::from(*value))),
            Self::Texts(texts) => array(TEXT, texts, out, |text, out| write_text(text, out)),
        }
    }

    /// Reads a value; `take` gives the next bytes of the file. Values of types that no [`Value`] has are passed over.
    pub(super) fn read<'a>(take: &mut impl FnMut(usize) -> Result<&'a [u8]>) -> Result<Option<Self>> {
        let kind = read_u32(take)?;
        Ok(Some(match kind {
            U32 => Self::U32(read_u32(take)?),
            I32 => Self::I32(read_u32(take)? as i32),
            F32 => Self::F32(f32::from_bits(read_u32(take)?)),
            BOOL => Self::Bool(take(1)?[0] != 0),
            TEXT => Self::Text(read_text(take)?),
            ARRAY => {
                let kind = read_u32(take)?;
                let count = read_u64(take)?;
                match kind {
                    I32 => Self::I32s((0..count).map(|_| Ok(read_u32(take)? as i32)).collect::<Result<_>>()?),
                    F32 => Self::F32s(
                        (0..count).map(|_| Ok(f32::from_bits(read_u32(take)?))).collect::<Result<_>>()?,
                    ),
                    BOOL => Self::Bools((0..count).map(|_| Ok(take(1)?[0] != 0)).collect::<Result<_>>()?),
                    TEXT => Self::Texts((0..count).map(|_| read_text(take)).collect::<Result<_>>()?),
                    other => {
                        let bytes = count.saturating_mul(number_size(other)? as u64);
                        take(usize::try_from(bytes).unwrap_or(usize::MAX))?;
                        return Ok(None);
                    }
                }
            }
            other => {
                take(number_size(other)?)?;
                return Ok(None);
            }
        }))
    }
}

/// The bytes of a number of a type.
fn number_size(kind: u32) -> Result<usize> {
    Ok(match kind {
        0 | 1 => 1,
        2 | 3 => 2,
        U32 | I32 | F32 => 4,
        10..=12 => 8,
        other => bail!(Unsupported, "a value of type {other}"),
    })
}

/// Writes the length of a text and its bytes.
pub(super) fn write_text(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

/// Reads a number of 32 bits.
pub(super) fn read_u32<'a>(take: &mut impl FnMut(usize) -> Result<&'a [u8]>) -> Result<u32> {
    let bytes = take(4)?;
    Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u32::from(byte)))
}

/// Reads a number of 64 bits.
pub(super) fn read_u64<'a>(take: &mut impl FnMut(usize) -> Result<&'a [u8]>) -> Result<u64> {
    let bytes = take(8)?;
    Ok(bytes.iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// Reads the length of a text and its bytes.
pub(super) fn read_text<'a>(take: &mut impl FnMut(usize) -> Result<&'a [u8]>) -> Result<String> {
    let length = read_u64(take)?;
    let bytes = take(usize::try_from(length).unwrap_or(usize::MAX))?;
    match std::str::from_utf8(bytes) {
        Ok(text) => Ok(text.to_owned()),
        Err(problem) => bail!(Malformed, "a text is not UTF-8: {problem}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8]) -> Result<(Option<Value>, usize)> {
        let mut position = 0;
        let mut take = |count: usize| -> Result<&[u8]> {
            let Some(found) = bytes.get(position..).and_then(|rest| rest.get(..count)) else {
                bail!(Malformed, "the end")
            };
            position += count;
            Ok(found)
        };
        let value = Value::read(&mut take)?;
        Ok((value, position))
    }

    #[test]
    fn values_are_read_as_they_were_written_and_others_passed_over() {
        let values = [
            Value::U32(7),
            Value::I32(-7),
            Value::F32(0.5),
            Value::Bool(true),
            Value::Text("é".into()),
            Value::I32s(vec![1, -1]),
            Value::F32s(vec![0.25]),
            Value::Bools(vec![false, true]),
            Value::Texts(vec![String::new(), "b".into()]),
        ];
        for value in values {
            let mut bytes = Vec::new();
            value.write(&mut bytes);
            assert_eq!(read(&bytes).unwrap(), (Some(value.clone()), bytes.len()), "{value:?}");
            assert!(read(&bytes[..bytes.len() - 1]).is_err(), "{value:?}");
        }
        // A number of 64 bits, and two of 16.
        assert_eq!(read(&[&[10, 0, 0, 0][..], &[1; 8]].concat()).unwrap(), (None, 12));
        let list = [&[9, 0, 0, 0, 2, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0][..], &[1; 4]].concat();
        assert_eq!(read(&list).unwrap(), (None, 20));
        assert!(
            read(&[13, 0, 0, 0]).is_err()
                && read(&[9, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff]).is_err()
        );
    }
}
