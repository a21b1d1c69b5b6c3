//! The text of a file of rows, decompressed and as UTF-8.

use std::cell::Cell;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::FileTypeExt;
use std::path::Path;
use std::rc::Rc;

use encoding_rs::{Encoding, GB18030, UTF_16BE, UTF_16LE};
use encoding_rs_io::DecodeReaderBytesBuilder;
use flate2::bufread::MultiGzDecoder;

use crate::{Context, Error, Result, cli, error, files};

/// Bytes that are read at a time.
const BUFFER: usize = 1 << 16;

/// Opens a file of rows. Rows are read more than once, so pipes and devices are refused.
pub fn open(path: &Path) -> Result<File> {
    let kind = std::fs::metadata(path).map(|metadata| metadata.file_type());
    if kind.is_ok_and(|kind| kind.is_fifo() || kind.is_socket() || kind.is_char_device()) {
        return Err(error!("{} is a pipe or a device, and rows are read more than once", path.display())
            .hint("write the rows into a file and name that: COMMAND > rows.jsonl"));
    }
    files::open(path).hint("examples are read from JSON, JSON lines, CSV and parquet files")
}

/// The text of a file while it is read, and the number of bytes read of the file.
pub(super) struct Input {
    /// The text that is left.
    pub text: Box<dyn BufRead>,
    /// The position in the file.
    pub position: Position,
}

/// The number of bytes that are read of a file.
#[derive(Clone, Default)]
pub(super) struct Position(Rc<Cell<u64>>);

impl Position {
    /// The number of bytes that are read now.
    pub(super) fn get(&self) -> u64 {
        self.0.get()
    }
}

impl Input {
    /// Begins to read the text of an open file, without its byte order mark.
    pub(super) fn new(file: File) -> std::io::Result<Self> {
        let position = Position::default();
        let packed = BufReader::with_capacity(BUFFER, Counting { file, read: position.clone() });
        let mut text = unicode(unpacked(packed)?)?;
        if text.fill_buf()?.starts_with(b"\xEF\xBB\xBF") {
            text.consume(3);
        }
        Ok(Self { text, position })
    }
}

/// Decompresses a stream that is compressed with gzip or zstd.
fn unpacked(mut packed: impl BufRead + 'static) -> std::io::Result<Box<dyn BufRead>> {
    let start = packed.fill_buf()?;
    if start.starts_with(b"\x1F\x8B") {
        return Ok(Box::new(BufReader::with_capacity(BUFFER, MultiGzDecoder::new(packed))));
    }
    if start.starts_with(b"\x28\xB5\x2F\xFD") {
        let text = zstd::stream::read::Decoder::with_buffer(packed)?;
        return Ok(Box::new(BufReader::with_capacity(BUFFER, text)));
    }
    Ok(Box::new(packed))
}

/// Converts UTF-16 to UTF-8, and leaves all other text as it is.
fn unicode(mut text: Box<dyn BufRead>) -> std::io::Result<Box<dyn BufRead>> {
    let encoding: &'static Encoding = match text.fill_buf()? {
        [0xFF, 0xFE, ..] | [b'[' | b'{', 0, ..] => UTF_16LE,
        [0xFE, 0xFF, ..] | [0, b'[' | b'{', ..] => UTF_16BE,
        _ => return Ok(text),
    };
    let decoded = DecodeReaderBytesBuilder::new().encoding(Some(encoding)).bom_sniffing(false).build(text);
    Ok(Box::new(BufReader::with_capacity(BUFFER, decoded)))
}

/// The error for a row that is not UTF-8, which tells the probable encoding and how to convert the file.
pub(super) fn not_utf8(path: &Path, row: &[u8]) -> Error {
    let (name, program) = match GB18030.decode_without_bom_handling(row).1 {
        false => ("GBK or GB18030", "GB18030"),
        true => ("Latin-1 or Windows-1252", "WINDOWS-1252"),
    };
    let command = format!("iconv -f {program} -t UTF-8 {} > utf8", cli::quoted_path(path));
    error!("not UTF-8; it may be {name} ({command})").hint(command)
}

/// A reader that counts the bytes it reads.
struct Counting {
    file: File,
    read: Position,
}

impl Read for Counting {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = self.file.read(buffer)?;
        self.read.0.set(self.read.0.get() + count as u64);
        Ok(count)
    }
}
