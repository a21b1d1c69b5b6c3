//! The text of a template before it is compiled: how deep it may nest, and where what it computes
//! is checked.
//!
//! A template is a program that somebody else wrote. minijinja bounds its steps, but parses and
//! compiles by recursion, and lets values grow that it later walks by recursion. So the tokens are
//! looked at first: an expression and the blocks around it may only be so deep, and what a template
//! keeps (what it assigns, iterates, hands to a macro, puts in a list, or makes by `*`) goes through [`GUARD`], a
//! function that refuses values out of all proportion (`guard.rs`).

use std::collections::BTreeSet;

use minijinja::machinery::tokenize;
use minijinja::syntax::SyntaxConfig;

use super::scan::Scan;

/// The function that values go through. No template may use its name.
pub(super) const GUARD: &str = "__bounded";
/// The guard of what becomes an attribute of a namespace: no namespace, so that none holds itself.
pub(super) const ATTRIBUTE_GUARD: &str = "__bounded_attribute";

/// The variable that says how large a value may be.
pub(super) const ROOM: &str = "__bounded_room";

/// What a template mentions, and may compare data with.
#[derive(Debug, Default)]
pub struct Words {
    /// Names of variables, attributes and functions.
    pub names: BTreeSet<String>,
    /// Texts in quotes.
    pub texts: BTreeSet<String>,
}

/// Most bytes of a line: minijinja counts columns in 16 bits.
const LINE: usize = 65_000;

/// A template that can be compiled.
#[derive(Debug)]
pub(super) struct GuardedTemplate {
    /// The template with its guards. Lines are those of the original.
    pub text: String,
    /// What it mentions.
    pub words: Words,
}

impl GuardedTemplate {
    /// Checks a template and sets its guards, or says what is wrong with it. What is no Jinja at all
    /// is left for the parser to refuse.
    pub fn new(template: &str, syntax: SyntaxConfig) -> Result<Self, String> {
        if let Some((index, _)) = template.lines().enumerate().find(|(_, line)| line.len() > LINE) {
            return Err(format!("a line of more than {LINE} bytes (line {})", index + 1));
        }
        let mut scan = Scan::default();
        for token in tokenize(template, false, syntax) {
            let Ok((token, span)) = token else { break };
            let at = span.start_offset as usize..span.end_offset as usize;
            scan.token(&token, at, template)
                .map_err(|problem| format!("{problem} (line {})", span.start_line))?;
        }
        Ok(Self { text: scan.edited(template), words: scan.words })
    }
}
