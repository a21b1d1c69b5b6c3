//! The tokens that begin, end and fill texts, found as gguf-py does (`SpecialVocab` in `vocab.py`): by their names in
//! tokenizer_config.json, then by their ids in config.json; and whether llama.cpp puts them around a text, by the
//! post-processor of tokenizer.json.

use std::collections::BTreeMap;
use std::path::Path;

use common::gguf::{Metadata, Value as Entry};
use common::{Result, bail, files};
use serde_json::{Map, Value};

use super::{read_config, read_tokenizer};

/// The roles of special tokens, in transformers' and in GGUF's keys.
const ROLES: [(&str, &str); 8] = [
    ("bos", "bos_token_id"),
    ("eos", "eos_token_id"),
    ("unk", "unknown_token_id"),
    ("sep", "seperator_token_id"),
    ("pad", "padding_token_id"),
    ("mask", "mask_token_id"),
    ("eot", "eot_token_id"),
    ("eom", "eom_token_id"),
];

/// The special tokens of a model.
pub(super) struct SpecialTokens {
    /// Ids by role.
    ids: BTreeMap<&'static str, u64>,
    /// Whether a token of the role is added to texts.
    adds: BTreeMap<&'static str, bool>,
    /// Ids from here on are passed over.
    end: Option<usize>,
}

impl SpecialTokens {
    /// Finds the special tokens of the model in `directory`; those from `end` on are passed over.
    pub(super) fn read(directory: &Path, end: Option<usize>) -> Result<Self> {
        let tokenizer = read_tokenizer(directory)?;
        let mut found = Self { ids: BTreeMap::new(), adds: BTreeMap::new(), end };
        let config = read_config(directory)?;
        let mut names = Names::of(config.as_object().cloned().unwrap_or_default());
        let has_config = config.as_object().is_some_and(|config| !config.is_empty());
        let processor = &tokenizer["post_processor"];
        let one = std::slice::from_ref(processor);
        for processor in processor["processors"].as_array().map_or(one, Vec::as_slice) {
            if processor["type"] == "ByteLevel" {
                found.adds.entry("bos").or_insert(false);
                found.adds.entry("eos").or_insert(false);
            } else if processor["type"] == "TemplateProcessing" {
                found.read_processor(processor, &mut names);
            }
        }
        if has_config {
            found.read_names(&names, &tokenizer);
        }
        let path = directory.join("config.json");
        let config: Value = files::read_json(&path, files::CONFIG)?;
        for (role, _) in ROLES.iter().filter(|(role, _)| names.has(role)) {
            let key = format!("{role}_token_id");
            // Of a model that also reads images, the text model may name what the whole does not.
            let mut known = [&config, &config["text_config"]].into_iter().map(|config| &config[&key]);
            if let Some(id) = known.find(|id| !id.is_null()).and_then(Value::as_u64) {
                found.set(role, id);
            }
        }
        Ok(found)
    }

    /// Sets the token of a role that has none yet.
    pub(super) fn set(&mut self, role: &'static str, id: u64) {
        if self.end.is_none_or(|end| id < end as u64) {
            self.ids.entry(role).or_insert(id);
        }
    }

    /// Writes the tokens.
    pub(super) fn write(self, out: &mut Metadata) -> Result<()> {
        for (role, key) in ROLES {
            if let Some(id) = self.ids.get(role) {
                let Ok(id) = u32::try_from(*id) else { bail!(Malformed, "{role}_token_id is {id}") };
                out.set(format!("tokenizer.ggml.{key}"), Entry::U32(id));
            }
        }
        for role in ["bos", "eos", "sep"] {
            if let Some(adds) = self.adds.get(role) {
                out.set(format!("tokenizer.ggml.add_{role}_token"), Entry::Bool(*adds));
            }
        }
        Ok(())
    }

    fn read_names(&mut self, names: &Names, tokenizer: &Value) {
        let added = tokenizer["added_tokens"].as_array();
        for (role, _) in ROLES.iter().filter(|(role, _)| names.has(role)) {
            if let Some(adds) = names.config.get(&format!("add_{role}_token")).and_then(Value::as_bool) {
                self.adds.entry(role).or_insert(adds);
            }
            let Some(text) = names.get(role) else { continue };
            let token = added.into_iter().flatten().find(|token| token["content"] == text);
            if let Some(id) = token.and_then(|token| token["id"].as_u64()) {
                self.set(role, id);
            }
        }
    }

    /// Which tokens a template of the post-processor puts around a text and between two.
    fn read_processor(&mut self, processor: &Value, names: &mut Names) {
        let parts = |key: &str| processor[key].as_array().cloned().unwrap_or_default();
        let token = |part: Option<&Value>| -> Option<String> {
            Some(part?.get("SpecialToken")?.get("id")?.as_str()?.to_owned())
        };
        let (single, mut pair) = (parts("single"), parts("pair"));
        let (mut first, mut last) = (None, None);
        if single.len() > 1 {
            first = token(single.first());
            last = token(single.last());
        }
        if let Some(first) = &first {
            if names.get("bos").is_none() {
                names.set("bos", first);
            }
            if names.get("bos").as_ref() != Some(first) && names.get("cls").is_none() {
                names.set("cls", first);
            }
            let is_known = ["bos", "cls"].iter().any(|role| names.get(role).as_ref() == Some(first));
            self.adds.insert("bos", is_known);
        }
        if let Some(last) = &last {
            if names.get("eos").as_ref() != Some(last) {
                let earlier = names.get("eos");
                let role = if names.has("eot") { "eom" } else { "eot" };
                if let Some(earlier) = earlier {
                    names.set(role, &earlier);
                }
                names.set("eos", last);
            }
            self.adds.insert("eos", true);
        }
        if first.is_some() && token(pair.first()) == first {
            pair.remove(0);
        }
        if last.is_some() && token(pair.last()) == last {
            pair.pop();
        }
        let is_text = |part: Option<&Value>, id: &str| part.is_some_and(|part| part["Sequence"]["id"] == id);
        if pair.len() > 2 && is_text(pair.first(), "A") && is_text(pair.last(), "B") {
            let between = &pair[1..pair.len() - 1];
            let separates = |part: Option<&Value>| {
                token(part).is_some_and(|text| {
                    ["sep", "eos"].iter().any(|role| names.get(role) == Some(text.clone()))
                })
            };
            let adds = separates(between.first()) && last.is_none()
                || between.len() == 2 && separates(between.get(1));
            self.adds.insert("sep", adds);
        }
    }
}

/// The names of special tokens in tokenizer_config.json, as its post-processor corrects them.
struct Names {
    config: Map<String, Value>,
    /// Roles besides the usual ones.
    more: Vec<&'static str>,
}

impl Names {
    fn of(config: Map<String, Value>) -> Self {
        Self { config, more: Vec::new() }
    }

    /// Whether tokens of a role are looked for.
    fn has(&self, role: &str) -> bool {
        !["eot", "eom"].contains(&role) || self.more.contains(&role)
    }

    /// The text of the token of a role.
    fn get(&self, role: &str) -> Option<String> {
        let value = self.config.get(&format!("{role}_token"))?;
        value.get("content").unwrap_or(value).as_str().map(str::to_owned)
    }

    fn set(&mut self, role: &'static str, text: &str) {
        if ["eot", "eom"].contains(&role) {
            self.more.push(role);
        }
        self.config.insert(format!("{role}_token"), text.into());
    }
}
