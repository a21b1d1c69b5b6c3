//! `qlora documents`: man pages, and completions for bash, zsh and fish, made from the tools' command lines.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::{Command, CommandFactory, Parser};
use clap_complete::{Shell, generate};
use clap_mangen::Man;
use common::cli::{self, Tool};
use common::{Context, Error, Result, error, files};
use fs_err as fs;

use crate::tools::TOOLS;

/// The name of the command.
pub(crate) const NAME: &str = "documents";

/// Ends every file, and tells it from a file of another program.
const MARK: &str = concat!("made by qlora-tools ", env!("CARGO_PKG_VERSION"));

/// Where each shell looks for the completions of the command `NAME` below a share directory.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/NAME"),
    (Shell::Zsh, "zsh/site-functions/_NAME"),
    (Shell::Fish, "fish/vendor_completions.d/NAME.fish"),
];

const EXAMPLES: &str = "\
Examples:
  qlora documents -o ~/.local/share      for yourself
  qlora documents -o /usr/local/share    for everyone; `make install` does it

bash (with bash-completion), fish and man find what is there by themselves. zsh needs a line in
~/.zshrc before compinit: fpath+=~/.local/share/zsh/site-functions";

/// Write man pages, and completions for bash, zsh and fish, into the share directory -o
#[derive(Parser, Debug)]
#[command(name = "documents", version, after_help = EXAMPLES)]
struct Arguments {
    #[command(flatten)]
    common: cli::Common,
}

impl AsRef<cli::Common> for Arguments {
    fn as_ref(&self) -> &cli::Common {
        &self.common
    }
}

/// A page or script, and its place below the share directory.
struct Document {
    place: String,
    text: String,
}

/// Runs the command on a command line, the first word of which is how it was called.
pub(crate) fn main(line: Vec<OsString>) -> ExitCode {
    cli::run(Tool { name: "qlora documents", hint: |_| None }, line, run)
}

/// Returns the command line of `qlora documents`.
pub(crate) fn command() -> Command {
    Arguments::command()
}

fn run(arguments: Arguments) -> Result<()> {
    let Some(share) = arguments.common.output else {
        return Err(Error::usage("-o: the share directory expected").hint("-o ~/.local/share"));
    };
    let documents = documents()?;
    for document in &documents {
        expect_ours_or_nothing(&share.join(&document.place), arguments.common.force)?;
    }
    for Document { place, text } in &documents {
        let path = share.join(place);
        fs::create_dir_all(path.parent().unwrap_or(&share)).context("cannot make a directory")?;
        cli::write_file(&path, text)?;
    }
    cli::print_path(&share)
}

/// Fails where a file exists that another program has made, unless it is to be replaced.
fn expect_ours_or_nothing(path: &Path, force: bool) -> Result<()> {
    let is_ours =
        || files::read_text(path, files::CONFIG).is_ok_and(|text| text.contains("made by qlora-tools"));
    if path.symlink_metadata().is_err() || force || is_ours() {
        return Ok(());
    }
    Err(error!("{} is of another program", path.display())
        .hint("choose another directory with -o, or replace the file with --force"))
}

/// Returns all documents: a page and three scripts for `qlora` and for each tool.
fn documents() -> Result<Vec<Document>> {
    let mut documents = vec![page("qlora", crate::command())?];
    documents.extend(scripts("qlora", &crate::command()));
    for tool in &TOOLS {
        let command = (tool.command)().name(tool.program);
        documents.extend(scripts(tool.program, &command));
        documents.push(page(tool.program, command)?);
        // `man qlora train` looks for a page of this name.
        let place = format!("man/man1/qlora-{}.1", tool.name);
        documents.push(Document { place, text: format!(".so man1/{}.1\n.\\\" {MARK}\n", tool.program) });
    }
    documents.push(page("qlora-documents", command().name("qlora-documents"))?);
    Ok(documents)
}

/// Returns the completions of a command for every shell.
fn scripts(name: &str, command: &Command) -> impl Iterator<Item = Document> {
    COMPLETIONS.into_iter().map(move |(shell, place)| {
        let mut script = Vec::new();
        generate(shell, &mut command.clone(), name, &mut script);
        let script = String::from_utf8_lossy(&script);
        Document { place: place.replace("NAME", name), text: format!("{}\n# {MARK}\n", script.trim_end()) }
    })
}

/// Returns the man page of a command. Its examples are a section of their own, line by line as in the help.
fn page(name: &str, command: Command) -> Result<Document> {
    let examples = command.get_after_help().map(ToString::to_string).unwrap_or_default();
    let examples = examples.trim_start_matches("Examples:\n");
    let source = format!("qlora-tools {}", env!("CARGO_PKG_VERSION"));
    // As in the help; a synopsis of every option would hide what matters.
    let usage = command.clone().render_usage().to_string();
    let command = command.override_usage(usage.trim_start_matches("Usage:").trim().to_owned());
    let has_commands = command.has_subcommands();
    // Every command that is listed has a page; `help` has none.
    let command = command.disable_help_subcommand(true);
    let man = Man::new(command).title(name).source(source).manual("qlora-tools");
    let mut text = Vec::new();
    man.render_title(&mut text)?;
    man.render_name_section(&mut text)?;
    man.render_synopsis_section(&mut text)?;
    if has_commands {
        man.render_subcommands_section(&mut text)?;
    }
    man.render_options_section(&mut text)?;
    let mut text = String::from_utf8_lossy(&text).into_owned();
    text += &format!(".SH EXAMPLES\n.nf\n{}.fi\n", literal(examples));
    text += ".SH \"SEE ALSO\"\n";
    let names = TOOLS.iter().map(|tool| tool.program).chain(["qlora"]).filter(|other| *other != name);
    text +=
        &names.map(|name| format!("\\fB{}\\fR(1)", name.replace('-', "\\-"))).collect::<Vec<_>>().join(", ");
    text += &format!("\n.\\\" {MARK}\n");
    Ok(Document { place: format!("man/man1/{name}.1"), text })
}

/// Returns lines of text as roff shows them unchanged.
fn literal(text: &str) -> String {
    // `\&` at its beginning keeps a line that begins with a point or an apostrophe from being a request.
    text.lines().map(|line| format!("\\&{}\n", line.replace('\\', "\\e").replace('-', "\\-"))).collect()
}
