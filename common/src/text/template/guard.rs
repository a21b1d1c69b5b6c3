//! Bounds on what a template may do: the number of its steps, and the size of the values that it keeps.
//!
//! Steps and bytes are counted as minijinja's fuel, whose amount follows from the size of the input.
//! Values are bounded too, because comparing, printing and dropping one walks all of it by recursion: a
//! list that holds another one twice, forty times over, takes little memory and endless time.

use minijinja::value::ValueKind;
use minijinja::{Environment, Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;

use super::size::InputSize;

/// The name of the function that checks values, which no template may use itself.
pub(super) const GUARD: &str = "__bounded";
/// The name of the function that checks values of a namespace's attributes, which must not be namespaces,
/// so that none holds itself.
pub(super) const ATTRIBUTE_GUARD: &str = "__bounded_attribute";

/// The name of the variable that holds the largest size of a value.
pub(super) const ROOM: &str = "__bounded_room";

/// Steps that a template has without any input.
const STEPS: u64 = 20_000;
/// Further steps for each entry of a tool or a call.
const STEPS_PER_ENTRY: u64 = 256;
/// Further steps for each message.
const STEPS_PER_MESSAGE: u64 = 1024;
/// Further steps for each pair of messages, since a template may look back from each to all others.
const STEPS_PER_PAIR: u64 = 4;
/// Most steps for any input. This bounds memory too, since a step may make 64 bytes.
const MOST_STEPS: u64 = 16_000_000;
/// The deepest nesting of lists and maps.
pub(super) const NESTING: usize = 256;
/// The recursion limit of minijinja, of which each call of a macro takes four or more.
const RECURSION: usize = 160;
/// Most entries of a value, nested ones included, without any input.
const ENTRIES: u64 = 10_240;
/// Most bytes of a value without any input.
const BYTES: u64 = 256 << 10;
/// Entries of a value that are checked for one step.
const ENTRIES_PER_STEP: u64 = 8;
/// Bytes that are read for one step, as minijinja counts them.
const BYTES_PER_STEP: u64 = 64;
/// The widest that a text may be padded to, in columns.
const WIDTH: u64 = 10_000;

/// The number of steps for an input of this size. A step reads 64 bytes, and may be repeated often.
pub(super) fn steps(size: &InputSize) -> u64 {
    let messages = size.messages as u64;
    let parts = [
        size.bytes as u64 / 2,
        STEPS_PER_ENTRY.saturating_mul(size.entries as u64),
        STEPS_PER_MESSAGE.saturating_mul(messages),
        STEPS_PER_PAIR.saturating_mul(messages.saturating_mul(messages)),
    ];
    parts.into_iter().fold(STEPS, u64::saturating_add).min(MOST_STEPS)
}

/// The most entries and bytes of a value, for an input of this size.
pub(super) fn room(size: &InputSize) -> [u64; 2] {
    let entries = size.entries as u64 + 8 * size.messages as u64;
    [ENTRIES + 4 * entries, BYTES + 2 * size.bytes as u64]
}

/// Sets the bounds that are the same for every rendering.
pub(super) fn set(environment: &mut Environment<'_>) {
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(method);
    environment.add_function(GUARD, |state: &State, value: Value| bounded(state, value, false));
    environment.add_function(ATTRIBUTE_GUARD, |state: &State, value: Value| bounded(state, value, true));
    // A function of minijinja that shows the engine's internals.
    environment.remove_global("debug");
}

fn refused(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

/// Checks that a value which a template keeps is neither too deep nor too large, and computes all of it,
/// since minijinja would compute a slice of a slice of a slice again each time it is read.
fn bounded(state: &State, value: Value, is_attribute: bool) -> Result<Value, Error> {
    if !matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable | ValueKind::Plain) {
        return Ok(value);
    }
    let room: Vec<u64> = match state.lookup(ROOM) {
        Some(room) => room.try_iter()?.map(u64::try_from).collect::<Result<_, _>>()?,
        None => vec![ENTRIES, BYTES],
    };
    let mut walk = Walk { state, is_attribute, entries: room[0], bytes: room[1] };
    Ok(walk.computed(&value, NESTING)?.unwrap_or(value))
}

struct Walk<'a, 'b, 'c> {
    state: &'a State<'b, 'c>,
    is_attribute: bool,
    /// The entries that the rest of the value may have.
    entries: u64,
    /// The bytes that the rest of the value may have.
    bytes: u64,
}

impl Walk<'_, '_, '_> {
    fn spend(&mut self, value: &Value) -> Result<(), Error> {
        let bytes = value.as_str().map_or(0, str::len) as u64;
        let left = self.entries.checked_sub(1).zip(self.bytes.checked_sub(bytes));
        (self.entries, self.bytes) = left.ok_or_else(|| refused("it makes a value too large to keep"))?;
        let step = u64::from(self.entries.is_multiple_of(ENTRIES_PER_STEP));
        self.state.consume_fuel(step + bytes / BYTES_PER_STEP)
    }

    /// The value with all of it computed; `None` where it was computed already.
    fn computed(&mut self, value: &Value, deeper: usize) -> Result<Option<Value>, Error> {
        self.spend(value)?;
        let kind = value.kind();
        let Some(object) = value.as_object() else { return Ok(None) };
        if object.type_name().ends_with("::Namespace") && self.is_attribute {
            return Err(refused("a namespace holds a namespace"));
        }
        if !matches!(kind, ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
            return Ok(None);
        }
        let Some(deeper) = deeper.checked_sub(1) else {
            return Err(refused("it nests lists too deeply"));
        };
        if kind == ValueKind::Map {
            let mut changed = Vec::new();
            let mut entries = Vec::new();
            for key in value.try_iter()?.checked() {
                let key = key?;
                self.spend(&key)?;
                let entry = value.get_item(&key)?;
                changed.push(self.computed(&entry, deeper)?);
                entries.push((key, entry));
            }
            if changed.iter().all(Option::is_none) {
                return Ok(None);
            }
            let entries = entries.into_iter().zip(changed);
            let computed = entries.map(|((key, entry), changed)| (key, changed.unwrap_or(entry)));
            return Ok(Some(computed.collect()));
        }
        let mut is_changed = kind == ValueKind::Iterable;
        let mut items = Vec::new();
        for item in value.try_iter()?.checked() {
            let item = item?;
            let computed = self.computed(&item, deeper)?;
            is_changed |= computed.is_some();
            items.push(computed.unwrap_or(item));
        }
        Ok(is_changed.then(|| Value::from(items)))
    }
}

/// Calls Python's methods of strings, lists and dictionaries, which cost steps by the bytes they read.
fn method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().unwrap_or_default();
    let read: usize = text.len() + args.iter().filter_map(Value::as_str).map(str::len).sum::<usize>();
    state.consume_fuel(read as u64 / BYTES_PER_STEP)?;
    match method {
        "format" if widest(text) > WIDTH => return Err(refused("format: a width out of all proportion")),
        "count" => state.consume_fuel(value.len().unwrap_or(0) as u64)?,
        "join" => {
            let items = args.first().map(Value::try_iter).transpose()?;
            for item in items.into_iter().flat_map(|items| items.checked()) {
                if matches!(item?.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::Iterable) {
                    return Err(refused("join: a text expected, found a list"));
                }
            }
        }
        _ => {}
    }
    pycompat::unknown_method_callback(state, value, method, args)
}

/// The largest number in a text.
fn widest(text: &str) -> u64 {
    let numbers = text.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
    numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).max().unwrap_or(0)
}
