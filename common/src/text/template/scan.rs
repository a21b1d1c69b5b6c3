//! Reads the tokens of a template, to check its nesting and to find the places of guards.

use std::collections::BTreeSet;

use minijinja::machinery::Token;

use super::guard::{ATTRIBUTE_GUARD, GUARD};

/// The deepest nesting of brackets.
const BRACKETS: usize = 32;
/// The deepest nesting of operators, names and brackets within one tag.
const EXPRESSION: usize = 400;
/// The deepest nesting of blocks, each `elif` counted.
const BLOCKS: usize = 128;
/// The words that stand between operands.
const KEYWORDS: [&str; 8] = ["and", "or", "not", "in", "is", "if", "else", "recursive"];

/// The names and texts that a template mentions, and may compare data with.
#[derive(Debug, Default)]
pub(crate) struct Words {
    /// The names of variables, attributes and functions.
    pub names: BTreeSet<String>,
    /// The texts in quotes.
    pub texts: BTreeSet<String>,
}

/// The state of a pair of brackets, or of the tag around them, while its tokens are read.
#[derive(Default)]
struct Level {
    /// The number of tokens since the last comma.
    chain: usize,
    /// The depth of the deepest brackets since the last comma.
    inner: usize,
    /// The depth of the deepest chain before the last comma.
    before: usize,
    /// The position where the operand of a product would begin: after the last operator that binds less.
    operand: Option<usize>,
    /// Whether `operand` is multiplied.
    is_product: bool,
    /// Whether a guard ends with these brackets.
    is_guarded: bool,
    /// The position where a list, a map or a tuple begins, if these brackets make one.
    literal: Option<usize>,
    /// Whether the brackets hold more than one thing.
    has_several: bool,
}

impl Level {
    fn depth(&self) -> usize {
        self.before.max(self.chain + self.inner)
    }
}

/// The kind of the tag that is being read.
#[derive(Default, PartialEq, Clone, Copy)]
enum Tag {
    #[default]
    Expression,
    Set,
    With,
    For,
    Macro,
    Call,
    Other,
}

/// The state of reading the tokens of a template.
#[derive(Default)]
pub(super) struct Scan {
    /// The names and texts that the template mentions.
    pub words: Words,
    /// Texts to insert, and the ranges that they replace.
    edits: Vec<(std::ops::Range<usize>, String)>,
    levels: Vec<Level>,
    tag: Tag,
    /// The number of tokens of the tag so far.
    count: usize,
    /// Whether a guard is open, which ends with the tag at the latest.
    guard: bool,
    /// Whether the tag has assigned something.
    assigned: bool,
    /// Whether the target of the tag is an attribute.
    dotted: bool,
    /// The parameters of a macro.
    parameters: Vec<String>,
    last: Last,
    /// The blocks that are open, each with the number of its `elif`s.
    blocks: Vec<usize>,
}

/// The previous token.
#[derive(Default)]
struct Last {
    end: usize,
    word: Option<String>,
    is_dot: bool,
    is_open_or_comma: bool,
    /// Whether the token is `is`, or `is not`, so that the next word is the name of a test.
    is_test: bool,
    /// Whether the token may end an operand, so that a bracket after it is a look-up or a call.
    ends_operand: bool,
    /// Whether the token is the name of a test, which takes a list as its argument without brackets.
    names_test: bool,
}

impl Scan {
    /// Reads the next token, which is at `at`.
    pub(super) fn token(
        &mut self,
        token: &Token<'_>,
        at: std::ops::Range<usize>,
        template: &str,
    ) -> Result<(), &'static str> {
        match token {
            Token::TemplateData(_) => return Ok(()),
            Token::VariableStart | Token::BlockStart => {
                self.levels = vec![Level::default()];
                self.tag = Tag::Expression;
                (self.count, self.guard, self.assigned, self.dotted) = (0, false, false, false);
                self.parameters.clear();
                if matches!(token, Token::BlockStart) {
                    self.tag = Tag::Other;
                }
                self.last = Last { end: at.end, ..Last::default() };
                return Ok(());
            }
            Token::VariableEnd | Token::BlockEnd => {
                self.end_of_tag(matches!(token, Token::BlockEnd), &at, template);
                self.levels.clear();
                return Ok(());
            }
            _ => {}
        }
        // Outside of tags there are no tokens.
        if self.levels.is_empty() {
            return Ok(());
        }
        let word = match token {
            Token::Ident(word) => Some(*word),
            _ => None,
        };
        if let Some(word) = word {
            if word.starts_with(GUARD) {
                return Err("a name that is reserved");
            }
            self.words.names.insert(word.to_owned());
        }
        match token {
            Token::Str(text) => _ = self.words.texts.insert((*text).to_owned()),
            Token::String(text) => _ = self.words.texts.insert(text.to_string()),
            _ => {}
        }
        let is_keyword = word.is_some() && !self.last.is_dot && !self.last.is_test;
        let keyword = word.filter(|_| is_keyword);
        if self.count == 0 && self.tag == Tag::Other {
            self.begin_block(keyword.unwrap_or_default(), &at)?;
        } else {
            self.within_tag(token, keyword, &at);
        }
        self.deepen(token, keyword, &at)?;
        self.count += 1;
        self.last = Last {
            end: at.end,
            is_dot: matches!(token, Token::Dot),
            is_open_or_comma: matches!(token, Token::ParenOpen | Token::Comma),
            is_test: keyword == Some("is") || (self.last.is_test && word == Some("not")),
            names_test: self.last.is_test && word.is_some_and(|word| word != "not"),
            ends_operand: match token {
                Token::Ident(word) => !(is_keyword && KEYWORDS.contains(word)),
                Token::Str(_) | Token::String(_) | Token::Int(_) | Token::Int128(_) | Token::Float(_) => true,
                Token::ParenClose | Token::BracketClose | Token::BraceClose => true,
                _ => false,
            } && !(self.count == 0 && self.tag != Tag::Expression),
            word: word.map(str::to_owned),
        };
        Ok(())
    }

    /// Reads the word that tells the kind of a block.
    fn begin_block(&mut self, word: &str, at: &std::ops::Range<usize>) -> Result<(), &'static str> {
        self.tag = match word {
            "set" => Tag::Set,
            "with" => Tag::With,
            "for" => Tag::For,
            "macro" => Tag::Macro,
            "call" => Tag::Call,
            _ => Tag::Other,
        };
        match word {
            // transformers' own block, which only marks text.
            "generation" => self.edits.push((at.clone(), "if true".into())),
            "endgeneration" => self.edits.push((at.clone(), "endif".into())),
            _ => {}
        }
        match word {
            "for" | "if" | "with" | "filter" | "autoescape" | "block" | "macro" | "call" | "generation" => {
                self.blocks.push(1);
            }
            "elif" => self.blocks.last_mut().map_or((), |block| *block += 1),
            _ if word.starts_with("end") => _ = self.blocks.pop(),
            _ => {}
        }
        match self.blocks.iter().sum::<usize>() > BLOCKS {
            true => Err("blocks are nested too deeply"),
            false => Ok(()),
        }
    }

    /// Opens and closes the guards of a tag.
    fn within_tag(&mut self, token: &Token<'_>, keyword: Option<&str>, at: &std::ops::Range<usize>) {
        let is_outermost = self.levels.len() == 1;
        let is_parameter = match self.tag {
            Tag::Macro | Tag::Call => self.levels.len() == 2 && self.last.is_open_or_comma,
            _ => false,
        };
        match (self.tag, token) {
            (Tag::Set, Token::Dot) if is_outermost && !self.assigned => self.dotted = true,
            (Tag::Set | Tag::With, Token::Assign) if is_outermost && !self.guard => self.open_guard(at.end),
            (Tag::With, Token::Comma) if is_outermost => self.close_guard(),
            (Tag::For, _) if is_outermost && keyword == Some("in") && !self.assigned => {
                self.open_guard(at.end);
            }
            (Tag::For, _)
                if is_outermost
                    && matches!(keyword, Some("if" | "recursive"))
                    && self.last.word.as_deref() != Some("in") =>
            {
                self.close_guard();
            }
            // `call` may call a macro with arguments of its own; only what follows the word at once are
            // parameters.
            (Tag::Call, Token::ParenOpen) if is_outermost && self.count > 1 => self.assigned = true,
            (Tag::Macro | Tag::Call, Token::Ident(name)) if is_parameter && !self.assigned => {
                self.parameters.push((*name).to_owned());
            }
            _ => {}
        }
    }

    fn open_guard(&mut self, at: usize) {
        let guard = if self.dotted { ATTRIBUTE_GUARD } else { GUARD };
        // A second pair of brackets, because what is assigned may be a tuple without any.
        self.edits.push((at..at, format!(" {guard}((")));
        (self.guard, self.assigned) = (true, true);
    }

    fn close_guard(&mut self) {
        if std::mem::take(&mut self.guard) {
            self.close_product();
            self.edits.push((self.last.end..self.last.end, "))".into()));
        }
    }

    /// Guards the product that ends before this token, if there is one.
    fn close_product(&mut self) {
        let Some(level) = self.levels.last_mut() else { return };
        if let (Some(start), true) = (level.operand, level.is_product) {
            self.edits.push((start..start, format!("{GUARD}(")));
            self.edits.push((self.last.end..self.last.end, ")".into()));
        }
        (level.operand, level.is_product) = (None, false);
    }

    /// Follows brackets, chains of operators, and products.
    fn deepen(
        &mut self,
        token: &Token<'_>,
        keyword: Option<&str>,
        at: &std::ops::Range<usize>,
    ) -> Result<(), &'static str> {
        let binds_less = matches!(
            token,
            Token::Plus
                | Token::Minus
                | Token::Tilde
                | Token::Eq
                | Token::Ne
                | Token::Lt
                | Token::Lte
                | Token::Gt
                | Token::Gte
                | Token::Comma
                | Token::Colon
                | Token::Assign
        ) || keyword.is_some_and(|word| word != "is" && KEYWORDS.contains(&word))
            || (self.count == 0 && self.tag != Tag::Expression);
        let is_closing = matches!(token, Token::ParenClose | Token::BracketClose | Token::BraceClose);
        // A minus at the beginning of an operand is its sign.
        let is_sign =
            matches!(token, Token::Minus) && self.levels.last().is_some_and(|level| level.operand.is_none());
        if (binds_less && !is_sign) || is_closing {
            self.close_product();
        }
        if is_closing {
            let Some(level) = self.levels.pop() else { return Ok(()) };
            if level.is_guarded {
                self.edits.push((self.last.end..self.last.end, "))".into()));
            }
            if let (Some(start), true) = (level.literal, level.has_several) {
                self.edits.push((start..start, format!("{GUARD}(")));
                self.edits.push((at.end..at.end, ")".into()));
            }
            if let Some(outer) = self.levels.last_mut() {
                outer.inner = outer.inner.max(level.depth());
            }
        }
        let Some(level) = self.levels.last_mut() else { return Err("a bracket is closed that none opens") };
        level.has_several |= matches!(token, Token::Comma | Token::Colon);
        match token {
            Token::Comma => {
                level.before = level.depth();
                (level.chain, level.inner) = (0, 0);
            }
            Token::Mul if level.operand.is_some() => level.is_product = true,
            _ => {}
        }
        level.chain += 1;
        if (!binds_less || is_sign) && !is_closing && level.operand.is_none() {
            // A star here hands on a list of arguments.
            level.operand = (!matches!(token, Token::Mul | Token::Pow)).then_some(at.start);
        }
        if self.levels.iter().map(Level::depth).sum::<usize>() > EXPRESSION {
            return Err("an expression is nested too deeply");
        }
        if matches!(token, Token::ParenOpen | Token::BracketOpen | Token::BraceOpen) {
            let is_guarded = matches!(token, Token::ParenOpen)
                && self.last.word.as_deref() == Some("loop")
                && self.levels.last().is_some_and(|level| level.chain >= 2);
            if is_guarded {
                self.edits.push((at.end..at.end, format!("{GUARD}((")));
            }
            let is_target = match self.tag {
                Tag::Set | Tag::For => !self.assigned,
                Tag::With => !self.guard,
                Tag::Call => self.count == 1,
                _ => false,
            };
            let is_argument = self.last.names_test && !matches!(token, Token::ParenOpen);
            let is_literal = !is_target && (is_argument || !self.last.ends_operand);
            let literal = is_literal.then_some(at.start);
            self.levels.push(Level { is_guarded, literal, ..Level::default() });
            if self.levels.len() > BRACKETS {
                return Err("brackets are nested too deeply");
            }
        }
        Ok(())
    }

    fn end_of_tag(&mut self, is_block: bool, at: &std::ops::Range<usize>, template: &str) {
        if self.levels.len() == 1 {
            self.close_product();
            self.close_guard();
        }
        if self.tag == Tag::Set && !self.assigned {
            self.blocks.push(1);
        }
        if is_block && !self.parameters.is_empty() {
            // Ends as the tag before it, so that the white space after it is treated alike.
            let end = &template[at.clone()];
            let guards = self.parameters.iter().map(|name| format!("{{% set {name} = {GUARD}({name}) {end}"));
            let guards: String = guards.collect();
            self.edits.push((at.end..at.end, guards));
        }
    }

    /// The template with all texts inserted.
    pub(super) fn edited(&mut self, template: &str) -> String {
        self.edits.sort_by_key(|(at, _)| at.start);
        let mut text = String::with_capacity(template.len() + 32 * self.edits.len());
        let mut done = 0;
        for (at, edit) in &self.edits {
            text.push_str(&template[done..at.start]);
            text.push_str(edit);
            done = at.end;
        }
        text + &template[done..]
    }
}
