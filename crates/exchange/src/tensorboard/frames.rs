//! How events are framed in a file.

use std::io::{self, Write};

use prost::Message;

use super::event::Event;

impl Event {
    /// Writes it as a TFRecord: the length of the message in 8 bytes, a checksum of these, the message, a checksum of it;
    /// all little-endian (<https://www.tensorflow.org/tutorials/load_data/tfrecord>).
    pub(crate) fn write(&self, to: &mut impl Write) -> io::Result<()> {
        let message = self.encode_to_vec();
        let length = (message.len() as u64).to_le_bytes();
        to.write_all(&length)?;
        to.write_all(&masked_crc(&length).to_le_bytes())?;
        to.write_all(&message)?;
        to.write_all(&masked_crc(&message).to_le_bytes())
    }
}

/// Reads the events in the content of an event file. A last one without its end is left out: its writer was killed, or
/// still writes.
///
/// # Errors
/// What is wrong, and at which byte: a checksum that does not match, or a message that is no event.
pub fn read_events(content: &[u8]) -> Result<Vec<Event>, String> {
    let mut events = Vec::new();
    let mut rest = content;
    let split = |bytes: &mut &[u8], count: usize| bytes.split_off(..count).map(<[u8]>::to_vec);
    loop {
        let place = content.len() - rest.len();
        let Some(length) = split(&mut rest, 8) else { return Ok(events) };
        let Some(length_crc) = split(&mut rest, 4) else { return Ok(events) };
        if masked_crc(&length).to_le_bytes() != length_crc[..] {
            return Err(format!("byte {place}: the checksum of a length does not match"));
        }
        let length = length.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte));
        let Some(message) = usize::try_from(length).ok().and_then(|length| split(&mut rest, length)) else {
            return Ok(events);
        };
        let Some(crc) = split(&mut rest, 4) else { return Ok(events) };
        if masked_crc(&message).to_le_bytes() != crc[..] {
            return Err(format!("byte {place}: the checksum of an event does not match"));
        }
        events.push(Event::decode(&message[..]).map_err(|error| format!("byte {place}: {error}"))?);
    }
}

/// The CRC-32C, masked as TFRecords have it, so that the checksum of data that holds checksums is a good one.
fn masked_crc(bytes: &[u8]) -> u32 {
    crc32c::crc32c(bytes).rotate_right(15).wrapping_add(0xa282_ead8)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tensorboard::event::{
        Hyperparameter, Hyperparameters, Image, Kind, Session, SessionEnd, SessionLog, SessionStart, Status, Summary,
        Value, What,
    };

    /// Events that TensorBoard 2.21's `RecordWriter` wrote, of messages that its `plugins.hparams.metadata`,
    /// `plugins.text.metadata` and `util.tensor_util` made.
    const VERSION: &str = "1800000000000000a37f4b22090000000000448f401a0d627261696e2e4576656e743a32aba33345";
    const START: &str = "0d000000000000003c37b834090000000000448f403a02080166803feb";
    const SCALARS: &str = "3a000000000000001295eae2090000000000448f4010032a2d0a100a09737465702f6c6f737315000010400a190a\
                           12737465702f6c6561726e696e675f72617465150000003ffa1a4402";
    const TEXT: &str = "2c00000000000000f4aecc45090000000000448f402a210a1f0a06636f6e666967420b08071200420561202a622a4a08\
                        0a060a0474657874a4371c36";
    const IMAGE: &str = "3a000000000000001295eae2090000000000448f4010032a2d0a2b0a0a6d697374616b65732f31220b08021003180122\
                         03706e674a100a080a06696d616765731a04636f6174da2da0b8";
    const SESSION_START: &str = "70000000000000009429adcd090000000000448f402a650a630a1c5f68706172616d735f2f73657373696f6e5f\
                                 73746172745f696e666f42060801120212004a3b0a390a0768706172616d73122e1a2c0a070a0163120220010a\
                                 080a016212031a01780a0e0a0161120911000000000000e03f290000000000448f4031f62982";
    const SESSION_END: &str = "4d000000000000003d63d4a6090000000000448f402a420a400a1a5f68706172616d735f2f73657373696f6e5f656e\
                               645f696e666f42060801120212004a1a0a180a0768706172616d73120d220b08011100000000004c8f4013212a0c";

    fn bytes(hexadecimal: &str) -> Vec<u8> {
        let digits = hexadecimal.as_bytes().chunks(2);
        digits.map(|two| u8::from_str_radix(str::from_utf8(two).unwrap(), 16).unwrap()).collect()
    }

    fn event(step: i64, what: What) -> Event {
        Event { wall_time: 1000.5, step, what: Some(what) }
    }

    fn summary(value: Vec<Value>) -> What {
        What::Summary(Summary { value })
    }

    fn session_start() -> What {
        let value = |kind| Hyperparameter { kind: Some(kind) };
        let values = [("a", Kind::Number(0.5)), ("b", Kind::Text("x".to_owned())), ("c", Kind::Bool(true))];
        let hparams = values.map(|(name, kind)| (name.to_owned(), value(kind))).into();
        summary(vec![Value::session(Session::Start(SessionStart { hparams, start_time_secs: 1000.5 }))])
    }

    #[test]
    fn events_are_written_as_tensorboards_own_writer_writes_them() {
        let image = Image { height: 2, width: 3, colorspace: 1, encoded_image_string: b"png".to_vec() };
        let image = Value::image("mistakes/1".to_owned(), image, "coat".to_owned());
        let end = SessionEnd { status: Status::Success.into(), end_time_secs: 1001.5 };
        for (expected, event) in [
            (VERSION, event(0, What::FileVersion("brain.Event:2".to_owned()))),
            (START, event(0, What::SessionLog(SessionLog { status: 1 }))),
            (
                SCALARS,
                event(3, summary(vec![Value::scalar("step/loss", 2.25), Value::scalar("step/learning_rate", 0.5)])),
            ),
            (TEXT, event(0, summary(vec![Value::text("config", "a *b*".to_owned())]))),
            (IMAGE, event(3, summary(vec![image]))),
            (SESSION_END, event(0, summary(vec![Value::session(Session::End(end))]))),
        ] {
            let mut written = Vec::new();
            event.write(&mut written).unwrap();
            assert_eq!(written, bytes(expected), "{event:?}");
            assert_eq!(read_events(&written).unwrap(), [event]);
        }
        // Of entries of a map no order is laid down: the metadata's bytes differ, its content does not.
        let Some(What::Summary(found)) = read_events(&bytes(SESSION_START)).unwrap().remove(0).what else { panic!() };
        let What::Summary(expected) = session_start() else { panic!() };
        let content = |summary: &Summary| {
            let plugin = summary.value[0].metadata.as_ref().unwrap().plugin_data.as_ref().unwrap();
            (plugin.plugin_name.clone(), Hyperparameters::decode(&plugin.content[..]).unwrap())
        };
        assert_eq!(content(&found), content(&expected));
        assert_eq!(
            (&found.value[0].tag, &found.value[0].content),
            (&expected.value[0].tag, &expected.value[0].content)
        );
    }

    #[test]
    fn a_file_that_is_cut_anywhere_has_the_events_before_and_a_changed_byte_is_found() {
        let whole = [VERSION, SCALARS, TEXT].map(bytes).concat();
        let ends = [bytes(VERSION).len(), bytes(VERSION).len() + bytes(SCALARS).len(), whole.len()];
        for length in 0..=whole.len() {
            let events = read_events(&whole[..length]).unwrap();
            assert_eq!(events.len(), ends.iter().filter(|end| **end <= length).count(), "{length} bytes");
        }
        for place in 0..whole.len() {
            let mut changed = whole.clone();
            changed[place] ^= 4;
            assert!(read_events(&changed).is_err(), "byte {place}");
        }
    }
}
