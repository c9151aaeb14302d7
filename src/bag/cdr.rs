//! CDR of the few messages a recording is read and written with, parsed by hand so that pixels are borrowed.
//!
//! Plain CDR as ROS 2 sends it (OMG DDSI-RTPS 10.2): four bytes of encapsulation, then fields aligned to their own
//! size, counted from the end of those four bytes; a string is its length with the final NUL, its bytes and the NUL.

use crate::types::{FrameError, Size, Stamp};

/// Encapsulation of plain little-endian CDR.
const LITTLE_ENDIAN: [u8; 4] = [0, 1, 0, 0];

/// `sensor_msgs/msg/Image`, borrowed from its serialized form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ImageMsg<'a> {
    /// Header stamp.
    pub stamp: Stamp,
    /// Header frame, the camera's name in the transform tree.
    pub frame_id: &'a str,
    /// Columns and rows the message claims.
    pub size: Size,
    /// ROS encoding, such as `rgb8`.
    pub encoding: &'a str,
    /// Byte order of pixels wider than eight bits.
    pub is_bigendian: bool,
    /// Bytes from one row to the next.
    pub step: u32,
    /// The pixels; not checked against size and step, see [`crate::types::Frame::check`].
    pub data: &'a [u8],
}

impl<'a> ImageMsg<'a> {
    /// Reads a serialized message. Bytes behind the last field are padding and ignored.
    pub fn parse(cdr: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(cdr, "sensor_msgs/Image")?;
        let (stamp, frame_id) = reader.header()?;
        let height = reader.u32("height")?;
        let width = reader.u32("width")?;
        let encoding = reader.text("encoding")?;
        let is_bigendian = reader.u8("is_bigendian")? != 0;
        let step = reader.u32("step")?;
        let data = reader.sequence("data")?;
        Ok(Self { stamp, frame_id, size: Size::new(width, height), encoding, is_bigendian, step, data })
    }

    /// Replaces the contents of `cdr` with the serialized message, little-endian.
    pub fn write(&self, cdr: &mut Vec<u8>) {
        let mut writer = Writer::new(cdr);
        writer.header(self.stamp, self.frame_id);
        writer.u32(self.size.height);
        writer.u32(self.size.width);
        writer.text(self.encoding);
        writer.u8(u8::from(self.is_bigendian));
        writer.u32(self.step);
        writer.sequence(self.data);
    }
}

/// Stamp and frame of a serialized message that begins with a `std_msgs/msg/Header`, as both kinds of image do.
pub fn header(cdr: &[u8]) -> Result<(Stamp, &str), FrameError> {
    Reader::new(cdr, "the message")?.header()
}

/// `sensor_msgs/msg/CompressedImage`, borrowed from its serialized form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CompressedMsg<'a> {
    /// Header stamp.
    pub stamp: Stamp,
    /// Header frame, the camera's name in the transform tree.
    pub frame_id: &'a str,
    /// Free text such as `jpeg` or `mono8; png compressed `; the data say for themselves what they are.
    pub format: &'a str,
    /// A JPEG or PNG file.
    pub data: &'a [u8],
}

impl<'a> CompressedMsg<'a> {
    /// Reads a serialized message. Bytes behind the last field are padding and ignored.
    pub fn parse(cdr: &'a [u8]) -> Result<Self, FrameError> {
        let mut reader = Reader::new(cdr, "sensor_msgs/CompressedImage")?;
        let (stamp, frame_id) = reader.header()?;
        let format = reader.text("format")?;
        let data = reader.sequence("data")?;
        Ok(Self { stamp, frame_id, format, data })
    }

    /// Replaces the contents of `cdr` with the serialized message, little-endian.
    pub fn write(&self, cdr: &mut Vec<u8>) {
        let mut writer = Writer::new(cdr);
        writer.header(self.stamp, self.frame_id);
        writer.text(self.format);
        writer.sequence(self.data);
    }
}

/// Replaces the contents of `cdr` with a serialized `std_msgs/msg/String`, little-endian.
pub fn write_string(text: &str, cdr: &mut Vec<u8>) {
    Writer::new(cdr).text(text);
}

struct Reader<'a> {
    /// What follows the encapsulation; alignment counts from its start.
    body: &'a [u8],
    position: usize,
    big_endian: bool,
    message: &'static str,
}

impl<'a> Reader<'a> {
    fn new(cdr: &'a [u8], message: &'static str) -> Result<Self, FrameError> {
        let damaged = |why: String| FrameError::Damaged { why };
        let Some((encapsulation, body)) = cdr.split_first_chunk::<4>() else {
            return Err(damaged(format!("{message} of {} bytes is too short to be one", cdr.len())));
        };
        // The last two bytes are options; ROS 2 senders leave anything there.
        let big_endian = match encapsulation {
            [0, 0, ..] => true,
            [0, 1, ..] => false,
            [a, b, ..] => {
                return Err(damaged(format!("{message} is not plain CDR: encapsulation {a:02x}{b:02x}")));
            }
        };
        Ok(Self { body, position: 0, big_endian, message })
    }

    fn take(&mut self, count: usize, align: usize, field: &'static str) -> Result<&'a [u8], FrameError> {
        let start = self.position.next_multiple_of(align);
        let bytes = self.body.get(start..).and_then(|rest| rest.get(..count)).ok_or_else(|| {
            let (message, left) = (self.message, self.body.len().saturating_sub(start));
            FrameError::Damaged {
                why: format!("{message} ends early: `{field}` needs {count} bytes, {left} are left"),
            }
        })?;
        self.position = start + count;
        Ok(bytes)
    }

    fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        Ok(self.take(1, 1, field)?[0])
    }

    fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        let bytes = self.take(4, 4, field)?;
        let bytes = bytes.try_into().expect("take returns what was asked for");
        Ok(if self.big_endian { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    fn sequence(&mut self, field: &'static str) -> Result<&'a [u8], FrameError> {
        let count = self.u32(field)?;
        self.take(count as usize, 1, field)
    }

    fn text(&mut self, field: &'static str) -> Result<&'a str, FrameError> {
        let bytes = self.sequence(field)?;
        // Some senders write an empty string as length 0, without its NUL.
        let bytes = bytes.strip_suffix(&[0]).unwrap_or(bytes);
        std::str::from_utf8(bytes).map_err(|_| FrameError::Damaged {
            why: format!("{}: `{field}` is not text but {}", self.message, bytes.escape_ascii()),
        })
    }

    fn header(&mut self) -> Result<(Stamp, &'a str), FrameError> {
        let sec = self.u32("stamp.sec")?.cast_signed();
        let nanosec = self.u32("stamp.nanosec")?;
        Ok((Stamp { sec, nanosec }, self.text("frame_id")?))
    }
}

/// Writes the fields of one message, little-endian.
pub(super) struct Writer<'a> {
    cdr: &'a mut Vec<u8>,
}

impl<'a> Writer<'a> {
    /// Begins a message in `cdr`, whose contents go.
    pub(super) fn new(cdr: &'a mut Vec<u8>) -> Self {
        cdr.clear();
        cdr.extend_from_slice(&LITTLE_ENDIAN);
        Self { cdr }
    }

    fn u8(&mut self, value: u8) {
        self.cdr.push(value);
    }

    /// Alignment counts from the end of the encapsulation.
    fn aligned<const N: usize>(&mut self, bytes: [u8; N]) {
        let body = self.cdr.len() - LITTLE_ENDIAN.len();
        self.cdr.resize(LITTLE_ENDIAN.len() + body.next_multiple_of(N), 0);
        self.cdr.extend_from_slice(&bytes);
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.aligned(value.to_le_bytes());
    }

    pub(super) fn u64(&mut self, value: u64) {
        self.aligned(value.to_le_bytes());
    }

    pub(super) fn f32(&mut self, value: f32) {
        self.aligned(value.to_le_bytes());
    }

    fn length(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("a message of 4 GiB does not fit CDR, and no camera makes one"));
    }

    fn sequence(&mut self, bytes: &[u8]) {
        self.length(bytes.len());
        self.cdr.extend_from_slice(bytes);
    }

    pub(super) fn text(&mut self, text: &str) {
        self.length(text.len() + 1);
        self.cdr.extend_from_slice(text.as_bytes());
        self.cdr.push(0);
    }

    pub(super) fn header(&mut self, stamp: Stamp, frame_id: &str) {
        self.u32(stamp.sec.cast_unsigned());
        self.u32(stamp.nanosec);
        self.text(frame_id);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A 2x1 mono16 image, each field written out by hand from the CDR rules.
    #[rustfmt::skip]
    const LITTLE: &[u8] = &[
        0, 1, 0, 0,
        0xfe, 0xff, 0xff, 0xff,  7, 0, 0, 0,          // stamp -2 s, 7 ns
        4, 0, 0, 0,  b'c', b'a', b'm', 0,             // frame_id
        1, 0, 0, 0,  2, 0, 0, 0,                      // height, width
        7, 0, 0, 0,  b'm', b'o', b'n', b'o', b'1', b'6', 0,
        1, 4, 0, 0, 0,                                // is_bigendian at 31, step at 32: no padding between
        4, 0, 0, 0,  10, 11, 12, 13,
    ];
    #[rustfmt::skip]
    const BIG: &[u8] = &[
        0, 0, 0, 0,
        0xff, 0xff, 0xff, 0xfe,  0, 0, 0, 7,
        0, 0, 0, 3,  b'c', b'a', 0, 0,                // frame_id "ca" and one byte of padding
        0, 0, 0, 1,  0, 0, 0, 2,
        0, 0, 0, 6,  b'm', b'o', b'n', b'o', b'8', 0,
        0, 0, 0, 0, 0, 2,                             // is_bigendian, padding, step
        0, 0, 0, 2,  20, 21,
    ];

    #[test]
    fn golden_little_endian_image() {
        let image = ImageMsg::parse(LITTLE).unwrap();
        let stamp = Stamp { sec: -2, nanosec: 7 };
        let size = Size::new(2, 1);
        let (encoding, data): (_, &[u8]) = ("mono16", &[10, 11, 12, 13]);
        assert_eq!(
            image,
            ImageMsg { stamp, frame_id: "cam", size, encoding, is_bigendian: true, step: 4, data }
        );
        let mut written = vec![9; 3];
        image.write(&mut written);
        assert_eq!(written, LITTLE);
    }

    #[test]
    fn golden_big_endian_image() {
        let image = ImageMsg::parse(BIG).unwrap();
        let stamp = Stamp { sec: -2, nanosec: 7 };
        let size = Size::new(2, 1);
        let (encoding, data): (_, &[u8]) = ("mono8", &[20, 21]);
        assert_eq!(
            image,
            ImageMsg { stamp, frame_id: "ca", size, encoding, is_bigendian: false, step: 2, data }
        );
    }

    #[test]
    fn pixels_are_borrowed_not_copied() {
        let image = ImageMsg::parse(LITTLE).unwrap();
        assert!(LITTLE.as_ptr_range().contains(&image.data.as_ptr()));
    }

    #[test]
    fn every_truncation_is_refused() {
        for whole in [LITTLE, BIG] {
            for length in 0..whole.len() {
                let error = ImageMsg::parse(&whole[..length]).unwrap_err();
                assert_eq!(error.reason(), "damaged_message", "{length} of {} bytes", whole.len());
            }
        }
    }

    #[test]
    fn other_encapsulations_and_text_are_refused() {
        let mut parameter_list = LITTLE.to_vec();
        parameter_list[1] = 3;
        assert!(ImageMsg::parse(&parameter_list).unwrap_err().to_string().contains("encapsulation 0003"));
        let mut not_text = LITTLE.to_vec();
        not_text[16] = 0xff;
        assert!(ImageMsg::parse(&not_text).unwrap_err().to_string().contains("frame_id"));
    }

    #[test]
    fn a_string_message_has_length_and_nul() {
        let mut cdr = Vec::new();
        write_string("hi", &mut cdr);
        assert_eq!(cdr, [0, 1, 0, 0, 3, 0, 0, 0, b'h', b'i', 0]);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..200), endian in 0_u8..2) {
            let _ = ImageMsg::parse(&bytes);
            let _ = CompressedMsg::parse(&bytes);
            let plain = [&[0, endian, 0, 0], bytes.as_slice()].concat();
            let _ = ImageMsg::parse(&plain);
            let _ = CompressedMsg::parse(&plain);
        }

        #[test]
        fn a_damaged_byte_never_panics(at in 0..LITTLE.len(), value in any::<u8>()) {
            let mut bytes = LITTLE.to_vec();
            bytes[at] = value;
            let _ = ImageMsg::parse(&bytes);
        }

        #[test]
        fn compressed_round_trips_and_truncations_fail(
            sec in any::<i32>(),
            nanosec in any::<u32>(),
            frame_id in "[a-z/]{0,9}",
            format in "[a-z; ]{0,9}",
            data in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let stamp = Stamp { sec, nanosec };
            let message = CompressedMsg { stamp, frame_id: &frame_id, format: &format, data: &data };
            let mut cdr = Vec::new();
            message.write(&mut cdr);
            prop_assert_eq!(CompressedMsg::parse(&cdr).unwrap(), message);
            for length in 0..cdr.len() {
                prop_assert!(CompressedMsg::parse(&cdr[..length]).is_err());
            }
        }
    }
}
