//! What ranks send each other: a byte that says of which kind, the length as a little-endian u64, and the bytes.

use std::io::{self, Read, Write};

/// The most bytes of a frame of a process that has not said who it is.
pub(super) const GREETING: u64 = 1 << 16;
/// The most bytes of a frame between ranks, which is more than the gradients of any adapter.
pub(super) const LARGEST: u64 = 1 << 36;

/// The kinds of frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// A process tells rank 0 which rank of which run it is.
    Hello = 1,
    /// All ranks have joined; the bytes are the hosts of all.
    Welcome = 2,
    /// A process may not join, and why.
    Refused = 3,
    /// A part of what ranks exchange.
    Part = 4,
    /// An error that ends the run.
    Failed = 5,
    /// The run has ended by an error that another rank reports; the byte is the exit code.
    Over = 6,
    /// A rank has ended without an error.
    Done = 7,
}

impl Kind {
    fn of(byte: u8) -> Option<Self> {
        use Kind::{Done, Failed, Hello, Over, Part, Refused, Welcome};
        [Hello, Welcome, Refused, Part, Failed, Over, Done].into_iter().find(|kind| *kind as u8 == byte)
    }
}

/// Writes a frame.
pub(super) fn write(to: &mut impl Write, kind: Kind, bytes: &[u8]) -> io::Result<()> {
    let mut head = [0; 9];
    head[0] = kind as u8;
    head[1..].copy_from_slice(&(bytes.len() as u64).to_le_bytes());
    match bytes.len() {
        // One packet for a small frame.
        len if len < 1024 => to.write_all(&[&head[..], bytes].concat()),
        _ => to.write_all(&head).and_then(|()| to.write_all(bytes)),
    }
}

/// Reads a frame of at most `most` bytes.
pub(super) fn read(from: &mut impl Read, most: u64) -> io::Result<(Kind, Vec<u8>)> {
    let mut head = [0; 9];
    from.read_exact(&mut head)?;
    let length = u64::from_le_bytes(std::array::from_fn(|index| head[index + 1]));
    let kind = Kind::of(head[0]).filter(|_| length <= most);
    let kind = kind.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "not a frame of a rank"))?;
    let mut bytes = Vec::new();
    match from.take(length).read_to_end(&mut bytes)? as u64 == length {
        true => Ok((kind, bytes)),
        false => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else() {
        for (kind, len) in [(Kind::Hello, 0), (Kind::Part, 3), (Kind::Done, 5000)] {
            let mut sent = Vec::new();
            write(&mut sent, kind, &vec![7; len]).unwrap();
            assert_eq!(read(&mut &sent[..], 5000).unwrap(), (kind, vec![7; len]));
            assert!(read(&mut &sent[..sent.len() - 1], 5000).is_err(), "cut off");
        }
        let mut sent = Vec::new();
        write(&mut sent, Kind::Part, &[0; 10]).unwrap();
        assert!(read(&mut &sent[..], 9).is_err(), "too long");
        assert!(read(&mut &b"GET / HTTP/1.1\r\n\r\n"[..], GREETING).is_err());
    }
}
