//! Decompresses pages within a bound, because a few bytes may expand to gigabytes.

use std::io::Read;

use parquet::basic::Compression;

/// The reason why a page cannot be decompressed.
#[derive(Debug, PartialEq)]
pub(super) enum Problem {
    /// The page has more bytes than the bound.
    TooLarge,
    /// The page is damaged in the way that the text tells.
    Damaged(String),
}

/// Decompresses a page to at most `most` bytes.
pub(super) fn unpack(how: Compression, bytes: &[u8], most: usize) -> Result<Vec<u8>, Problem> {
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    match how {
        Compression::UNCOMPRESSED if bytes.len() > most => Err(Problem::TooLarge),
        Compression::UNCOMPRESSED => Ok(bytes.to_vec()),
        Compression::SNAPPY => snappy(bytes, most),
        Compression::GZIP(_) => read(flate2::read::MultiGzDecoder::new(bytes), most),
        Compression::BROTLI(_) => read(brotli_decompressor::Decompressor::new(bytes, 4096), most),
        Compression::ZSTD(_) => read(zstd::stream::read::Decoder::with_buffer(bytes).map_err(say)?, most),
        Compression::LZ4_RAW => lz4_block(bytes, most),
        Compression::LZ4 => {
            // The meaning of LZ4 has changed twice. As other readers do, all are tried, the oldest last.
            let framed = || read(lz4_flex::frame::FrameDecoder::new(bytes), most);
            hadoop(bytes, most).or_else(|_| framed()).or_else(|_| lz4_block(bytes, most))
        }
        other => Err(Problem::Damaged(format!("packed with {other}, which is not read"))),
    }
}

fn read(unpacked: impl Read, most: usize) -> Result<Vec<u8>, Problem> {
    let mut bytes = Vec::new();
    unpacked.take(most as u64 + 1).read_to_end(&mut bytes).map_err(say)?;
    if bytes.len() > most { Err(Problem::TooLarge) } else { Ok(bytes) }
}

fn snappy(bytes: &[u8], most: usize) -> Result<Vec<u8>, Problem> {
    // No byte of snappy stands for more than 64.
    let length = snap::raw::decompress_len(bytes).map_err(say)?;
    match length {
        _ if length > most => Err(Problem::TooLarge),
        _ if length / 64 > bytes.len() => Err(say("fewer bytes than it says")),
        _ => snap::raw::Decoder::new().decompress_vec(bytes).map_err(say),
    }
}

/// Decompresses a block of LZ4, which does not tell its length; no byte of it stands for more than 255.
fn lz4_block(bytes: &[u8], most: usize) -> Result<Vec<u8>, Problem> {
    let mut length = bytes.len().saturating_mul(4);
    loop {
        length = length.min(most);
        let mut unpacked = vec![0; length];
        match lz4_flex::block::decompress_into(bytes, &mut unpacked) {
            Ok(count) => {
                unpacked.truncate(count);
                return Ok(unpacked);
            }
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if length == most => {
                return Err(Problem::TooLarge);
            }
            Err(lz4_flex::block::DecompressError::OutputTooSmall { .. }) if length / 256 <= bytes.len() => {
                length = length.saturating_mul(4);
            }
            Err(problem) => return Err(say(problem)),
        }
    }
}

/// Decompresses Hadoop's framing of LZ4: blocks, each after its length and its compressed length, most
/// significant byte first.
fn hadoop(mut bytes: &[u8], most: usize) -> Result<Vec<u8>, Problem> {
    let mut unpacked = Vec::new();
    while !bytes.is_empty() {
        let ended = || say("a block that ends early");
        let (length, rest) = bytes.split_first_chunk::<4>().ok_or_else(ended)?;
        let (packed, rest) = rest.split_first_chunk::<4>().ok_or_else(ended)?;
        let length = u32::from_be_bytes(*length) as usize;
        let (block, rest) = rest.split_at_checked(u32::from_be_bytes(*packed) as usize).ok_or_else(ended)?;
        if length > most - unpacked.len() {
            return Err(Problem::TooLarge);
        }
        let begin = unpacked.len();
        unpacked.resize(begin + length, 0);
        match lz4_flex::block::decompress_into(block, &mut unpacked[begin..]) {
            Ok(count) if count == length => {}
            Ok(_) => return Err(ended()),
            Err(problem) => return Err(say(problem)),
        }
        bytes = rest;
    }
    Ok(unpacked)
}

fn say(problem: impl std::fmt::Display) -> Problem {
    Problem::Damaged(problem.to_string())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_unpacks_to_more_than_it_may_is_refused() {
        let text = b"water ".repeat(100_000);
        let gzip = {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&text).unwrap();
            gzip.finish().unwrap()
        };
        let block = lz4_flex::block::compress(&text);
        let hadoop =
            [&(text.len() as u32).to_be_bytes()[..], &(block.len() as u32).to_be_bytes(), &block].concat();
        let packed = [
            (Compression::UNCOMPRESSED, text.clone()),
            (Compression::SNAPPY, snap::raw::Encoder::new().compress_vec(&text).unwrap()),
            (Compression::GZIP(Default::default()), gzip),
            (Compression::ZSTD(Default::default()), zstd::encode_all(&text[..], 1).unwrap()),
            (Compression::LZ4_RAW, block.clone()),
            (Compression::LZ4, hadoop),
            (Compression::LZ4, block),
        ];
        for (how, bytes) in packed {
            assert_eq!(unpack(how, &bytes, text.len()).unwrap(), text, "{how}");
            let refused = unpack(how, &bytes, text.len() - 1).unwrap_err();
            // What LZ4 means is found out by trying, so that the last try decides what is wrong.
            assert!(how == Compression::LZ4 || refused == Problem::TooLarge, "{how}: {refused:?}");
            if how != Compression::UNCOMPRESSED {
                let cut = unpack(how, &bytes[..bytes.len() / 2], text.len());
                assert!(matches!(cut, Err(Problem::Damaged(_))), "{how}");
            }
        }
    }
}
