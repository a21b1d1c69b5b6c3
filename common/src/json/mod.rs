//! JSON as Python's `json` reads it.
//!
//! Python also takes `NaN`, `Infinity` and `-Infinity`, floats that are too large for one, and
//! integers of any length. [`Value`] holds none of these, so each becomes a
//! [literal](number), which a chat template writes as Python would.

pub mod number;

use std::borrow::Cow;

use serde_json::Value;

/// What kind of value this is, for messages: `a text`, `a list`.
pub fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        number if number::text_of(number).is_some() => "a number",
        Value::Object(_) => "an object",
    }
}

/// Reads the one value that `text` holds.
pub fn parse(text: &str) -> serde_json::Result<Value> {
    serde_json::from_str(&with_literals(text))
}

/// The text with a literal in place of every number that [`Value`] cannot hold.
fn with_literals(text: &str) -> Cow<'_, str> {
    let bytes = text.as_bytes();
    let mut rewritten = String::new();
    let (mut at, mut copied) = (0, 0);
    while at < bytes.len() {
        match bytes[at] {
            b'"' => at = after_string(bytes, at),
            b'-' | b'0'..=b'9' | b'N' | b'I' => {
                let is_part = |byte: &&u8| byte.is_ascii_alphanumeric() || b"+-.".contains(byte);
                let end = at + bytes[at..].iter().take_while(is_part).count();
                if let Some(literal) = literal(&text[at..end]) {
                    rewritten.push_str(&text[copied..at]);
                    rewritten.push_str(&literal);
                    copied = end;
                }
                at = end;
            }
            _ => at += 1,
        }
    }
    match copied {
        0 => Cow::Borrowed(text),
        _ => Cow::Owned(rewritten + &text[copied..]),
    }
}

/// The position after the string that begins at `at`.
fn after_string(bytes: &[u8], at: usize) -> usize {
    let mut at = at + 1;
    while let Some(found) = bytes.get(at..).and_then(|rest| memchr::memchr2(b'"', b'\\', rest)) {
        match bytes[at + found] {
            b'"' => return at + found + 1,
            _ => at += found + 2,
        }
    }
    bytes.len()
}

/// The JSON of a number that [`Value`] cannot hold as it is; `None` for all other numbers.
fn literal(token: &str) -> Option<String> {
    // Most numbers, quickly.
    if token.len() <= 18 && token.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    if token == "-0" {
        return Some("0".into());
    }
    if number::is_literal(token) {
        return Some(number::literal(token).to_string());
    }
    let is_float = token.contains(['.', 'e', 'E']);
    let value = token.parse::<f64>().ok().filter(|value| is_float && value.is_infinite())?;
    Some(number::literal(if value > 0.0 { "Infinity" } else { "-Infinity" }).to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn numbers_that_no_value_holds_are_literals() {
        let long = "123456789012345678901234567890";
        let text = format!("[{long}, -9223372036854775809, 18446744073709551615, 1e400, -1e999, NaN]");
        let literals = ["123456789012345678901234567890", "-9223372036854775809"];
        let literals = literals.map(number::literal);
        let expected = json!([
            literals[0],
            literals[1],
            u64::MAX,
            number::literal("Infinity"),
            number::literal("-Infinity"),
            number::literal("NaN")
        ]);
        assert_eq!(parse(&text).unwrap(), expected);
    }

    #[test]
    fn all_else_is_as_it_was() {
        for text in ["{\"a\": [1, -2.5, 1e22, 0.1, true, null, \"NaN \\\" 1e400\", \"é\\\\\"]}", "-1", "\"\""]
        {
            assert_eq!(parse(text).unwrap(), serde_json::from_str::<Value>(text).unwrap(), "{text}");
        }
        assert_eq!(parse("[-0, -0.0]").unwrap().to_string(), "[0,-0.0]");
        for wrong in ["", "[1", "\"a", "\"a\\", "01234567890123456789012", "nan", "NaNa", "--1", "[Infinity"]
        {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn floats_keep_their_digits() {
        for text in ["40.712775897979736", "1.7976931348623157e308", "5e-324", "0.30000000000000004"] {
            let value = parse(text).unwrap().as_f64().unwrap();
            assert_eq!(value, text.parse::<f64>().unwrap(), "{text}");
        }
    }
}
