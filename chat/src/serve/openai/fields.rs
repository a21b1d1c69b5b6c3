//! The fields of a request. Each is read by its name, and a field that is not known is refused, so that no setting
//! is ignored silently.

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::Problem;
use axum::http::StatusCode;

/// Fields that change nothing here: they name the client, or ask OpenAI to store the answer.
const WITHOUT_EFFECT: [&str; 7] =
    ["metadata", "prompt_cache_key", "safety_identifier", "service_tier", "store", "user", "verbosity"];

/// The fields of a request that have not been read yet.
pub(crate) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads the body of a request.
    pub(crate) fn parse(body: &[u8]) -> Result<Self, Problem> {
        let wrong = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
        match serde_json::from_slice(body) {
            Ok(Value::Object(fields)) => Ok(Self(fields)),
            Ok(_) => Err(wrong("the body is not a JSON object".to_owned())),
            Err(problem) => Err(wrong(format!("the body is not valid JSON: {problem}"))),
        }
    }

    /// Returns the value of a field; `None` where it is not there, or null.
    pub(crate) fn optional<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, Problem> {
        match self.0.shift_remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => {
                serde_json::from_value(value).map(Some).map_err(|problem| Problem::field(name, problem))
            }
        }
    }

    /// Returns the value of a field that must be there.
    pub(crate) fn required<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, Problem> {
        self.optional(name)?.ok_or_else(|| Problem::field(name, "the field is missing"))
    }

    /// Refuses a field of the API that is not supported, unless its value is one that changes nothing.
    pub(crate) fn only(&mut self, name: &str, harmless: &[Value]) -> Result<(), Problem> {
        match self.optional::<Value>(name)? {
            Some(value) if !harmless.contains(&value) => {
                let harmless: Vec<String> = harmless.iter().map(Value::to_string).collect();
                let but = format!("not supported but as {}", harmless.join(" or "));
                Err(Problem::field(name, but).code("unsupported_value"))
            }
            _ => Ok(()),
        }
    }

    /// Refuses what has not been read.
    pub(crate) fn finish(self) -> Result<(), Problem> {
        match self.0.keys().find(|name| !WITHOUT_EFFECT.contains(&name.as_str())) {
            Some(name) => {
                Err(Problem::field(name, "not a field that is known here").code("unknown_parameter"))
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn message(problem: Problem) -> String {
        problem.json()["error"]["message"].as_str().unwrap().to_owned()
    }

    #[test]
    fn every_field_is_read_or_refused() {
        let mut fields =
            Fields::parse(br#"{"n": 2, "stop": null, "user": "u", "suffix": "s", "x": 1}"#).unwrap();
        assert_eq!(fields.required::<usize>("n").unwrap(), 2);
        assert_eq!(fields.optional::<String>("stop").unwrap(), None);
        let error = fields.only("suffix", &[json!("")]).unwrap_err();
        assert_eq!(message(error), "suffix: not supported but as \"\"");
        assert_eq!(message(fields.required::<u8>("model").unwrap_err()), "model: the field is missing");
        assert_eq!(message(fields.finish().unwrap_err()), "x: not a field that is known here");
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for body in [&b"[]"[..], b"{", b"\xff", b""] {
            assert!(Fields::parse(body).is_err());
        }
        let mut fields = Fields::parse(br#"{"n": "two"}"#).unwrap();
        assert!(message(fields.optional::<usize>("n").unwrap_err()).starts_with("n: invalid type: string"));
    }
}
