//! Numbers that [`Value`] cannot hold and Python can: integers beyond 64 bits, `NaN`, infinities.
//!
//! In data such a number is an object with the one key [`MARK`], so that it is not confused with a text.
//! For a chat template it is a text that begins with that mark; where the template writes it, the mark and,
//! in JSON, the quotes are left out.

use serde_json::{Value, json};

/// A character that Unicode reserves for internal use. Where data holds it, it is dropped.
pub const MARK: char = '\u{FDD4}';

/// Whether a text is a number that [`Value`] cannot hold.
pub fn is_literal(text: &str) -> bool {
    let digits = text.strip_prefix('-').unwrap_or(text);
    match digits {
        "Infinity" => true,
        "NaN" => text == digits,
        _ => {
            let is_integer = !digits.starts_with('0') && digits.bytes().all(|digit| digit.is_ascii_digit());
            is_integer && digits.len() > 18 && text.parse::<i64>().is_err() && text.parse::<u64>().is_err()
        }
    }
}

/// The value that stands for the number with this text.
pub fn literal(text: &str) -> Value {
    json!({ MARK.to_string(): text })
}

/// The text of the number that `value` stands for; `None` where it stands for none.
pub fn text_of(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    let text = object.get(MARK.encode_utf8(&mut [0; 4]) as &str)?.as_str()?;
    is_literal(text).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_is_a_number_and_nothing_else() {
        for text in ["18446744073709551616", "-9223372036854775809", "NaN", "-Infinity"] {
            assert_eq!(text_of(&literal(text)), Some(text));
        }
        for text in
            ["18446744073709551615", "-1", "-NaN", "", "1e400", "<|im_end|>", "00000000000000000000001"]
        {
            assert_eq!(text_of(&literal(text)), None, "{text}");
        }
        assert_eq!(text_of(&json!({"\u{FDD4}": "NaN", "b": 1})), None);
    }
}
