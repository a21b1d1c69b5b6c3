//! Checks the text of a template before it is compiled, and puts guards in it.
//!
//! A template is a program that anyone may have written. minijinja bounds its steps, but parses and
//! compiles by recursion, and lets values grow that it later walks by recursion. So the tokens are checked
//! first: expressions and blocks must not be nested too deeply, and every value that a template keeps
//! (that it assigns, iterates, passes to a macro, puts in a list, or makes by `*`) goes through [`super::guard::GUARD`],
//! a function that refuses values out of all proportion (`guard.rs`).

use minijinja::machinery::tokenize;
use minijinja::syntax::SyntaxConfig;

use super::scan::{Scan, Words};

/// Most bytes of a line: minijinja counts columns in 16 bits.
const LINE: usize = 65_000;

/// A template with its guards, which can be compiled.
#[derive(Debug)]
pub(super) struct GuardedTemplate {
    /// The text of the template with its guards. Lines are those of the original.
    pub text: String,
    /// The names and texts that the template mentions.
    pub words: Words,
}

impl GuardedTemplate {
    /// Checks a template and puts guards in it. Fails where it is nested too deeply; a text that is not
    /// Jinja is left for the parser to refuse.
    pub(super) fn new(template: &str, syntax: SyntaxConfig) -> Result<Self, String> {
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
