//! Messages of `tensorflow/core/util/event.proto` in protocol buffers' wire format.

/// Wire types: an integer of variable length, eight bytes, a length and bytes, four bytes.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// The message that a file begins with.
pub(super) fn version(seconds: f64) -> Vec<u8> {
    let mut event = at(seconds, 0);
    bytes(&mut event, 3, b"brain.Event:2");
    event
}

/// The start of a session with `step`: TensorBoard forgets what earlier files say about this and later steps.
pub(super) fn restart(seconds: f64, step: u64) -> Vec<u8> {
    let mut event = at(seconds, step);
    let mut log = Vec::new();
    key(&mut log, 1, VARINT);
    varint(&mut log, 1); // SessionLog.START
    bytes(&mut event, 7, &log);
    event
}

/// The scalars of a step, each under its tag.
pub(super) fn summary(seconds: f64, step: u64, tagged: &[(String, f32)]) -> Vec<u8> {
    let mut summary = Vec::new();
    for (tag, value) in tagged {
        let mut entry = Vec::new();
        bytes(&mut entry, 1, tag.as_bytes());
        key(&mut entry, 2, FIXED32);
        entry.extend(value.to_le_bytes());
        bytes(&mut summary, 1, &entry);
    }
    let mut event = at(seconds, step);
    bytes(&mut event, 5, &summary);
    event
}

fn at(seconds: f64, step: u64) -> Vec<u8> {
    let mut event = Vec::new();
    key(&mut event, 1, FIXED64);
    event.extend(seconds.to_le_bytes());
    key(&mut event, 2, VARINT);
    varint(&mut event, step);
    event
}

fn key(message: &mut Vec<u8>, field: u32, kind: u32) {
    varint(message, u64::from(field << 3 | kind));
}

fn bytes(message: &mut Vec<u8>, field: u32, data: &[u8]) {
    key(message, field, BYTES);
    varint(message, data.len() as u64);
    message.extend_from_slice(data);
}

fn varint(message: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        message.push(value as u8 | 0x80);
        value >>= 7;
    }
    message.push(value as u8);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `Event(wall_time=1.5, step=300, summary=Summary(value=[Summary.Value(tag='a/b',
    /// simple_value=0.5)])).SerializeToString()` of PyPI's tensorboard.
    #[test]
    fn a_summary_is_what_protocol_buffers_write() {
        let expected = [
            0x09, 0, 0, 0, 0, 0, 0, 0xf8, 0x3f, 0x10, 0xac, 0x02, 0x2a, 0x0c, 0x0a, 0x0a, 0x0a, 0x03, b'a',
            b'/', b'b', 0x15, 0, 0, 0, 0x3f,
        ];
        assert_eq!(summary(1.5, 300, &[("a/b".into(), 0.5)]), expected);
    }
}
