//! The words everything else is written in: frames in, label images and frame reports out. Depends on nothing.

use std::fmt;

/// Label value of a pixel that has no class: ignored in scores, "unlabelled" to a consumer.
pub const UNLABELLED: u8 = 255;

/// Most levels a sparse U-Net may have (the released network has 6).
pub const MAX_LEVELS: usize = 8;

/// A ROS time stamp. Copied, never computed with: the label of a frame carries the frame's own stamp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Stamp {
    /// Whole seconds.
    pub sec: i32,
    /// Nanoseconds within the second, `0..1_000_000_000`.
    pub nanosec: u32,
}

impl Stamp {
    /// Nanoseconds since the epoch.
    pub fn as_nanos(self) -> i64 {
        i64::from(self.sec) * 1_000_000_000 + i64::from(self.nanosec)
    }

    /// The stamp of a count of nanoseconds since the epoch, saturating at the ends of what a ROS stamp can hold.
    pub fn from_nanos(nanos: i64) -> Self {
        let sec = nanos.div_euclid(1_000_000_000);
        let nanosec = nanos.rem_euclid(1_000_000_000);
        let sec = sec.clamp(i64::from(i32::MIN), i64::from(i32::MAX));
        Self { sec: sec as i32, nanosec: nanosec as u32 }
    }
}

impl fmt::Display for Stamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:09}", self.sec, self.nanosec)
    }
}

/// Index of a camera in the list the user gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CameraId(pub u16);

/// Width and height in pixels (or cells of a grid).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub struct Size {
    /// Columns.
    pub width: u32,
    /// Rows.
    pub height: u32,
}

impl Size {
    /// A size of `width` x `height`.
    pub const fn new(width: u32, height: u32) -> Self {
        Self { width, height }
    }

    /// Number of pixels.
    pub const fn pixels(self) -> usize {
        self.width as usize * self.height as usize
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}", self.width, self.height)
    }
}

impl std::str::FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("expected WIDTHxHEIGHT, such as 3840x2160, got `{text}`");
        let (width, height) = text.split_once(['x', 'X']).ok_or_else(wrong)?;
        let size = Self::new(width.parse().map_err(|_| wrong())?, height.parse().map_err(|_| wrong())?);
        if size.width == 0 || size.height == 0 { Err(wrong()) } else { Ok(size) }
    }
}

/// Memory layout of a raw camera image, by its ROS encoding.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the variants are the ROS encoding names")]
pub enum PixelFormat {
    Rgb8,
    Bgr8,
    Rgba8,
    Bgra8,
    Mono8,
    /// Bytes U Y V Y: ROS `uyvy` and `yuv422`.
    Uyvy,
    /// Bytes Y U Y V: ROS `yuyv` and `yuv422_yuy2`.
    Yuyv,
    /// A plane of Y, then a plane of interleaved U and V at half size.
    Nv12,
    BayerRggb8,
    BayerBggr8,
    BayerGbrg8,
    BayerGrbg8,
}

impl PixelFormat {
    /// Every format, for tables and tests.
    pub const ALL: [Self; 12] = [
        Self::Rgb8,
        Self::Bgr8,
        Self::Rgba8,
        Self::Bgra8,
        Self::Mono8,
        Self::Uyvy,
        Self::Yuyv,
        Self::Nv12,
        Self::BayerRggb8,
        Self::BayerBggr8,
        Self::BayerGbrg8,
        Self::BayerGrbg8,
    ];

    /// The format of a `sensor_msgs/Image` encoding, or `None` where it is not supported.
    pub fn from_encoding(encoding: &str) -> Option<Self> {
        Some(match encoding {
            "rgb8" | "8UC3" => Self::Rgb8,
            "bgr8" => Self::Bgr8,
            "rgba8" => Self::Rgba8,
            "bgra8" => Self::Bgra8,
            "mono8" | "8UC1" => Self::Mono8,
            "uyvy" | "yuv422" => Self::Uyvy,
            "yuyv" | "yuv422_yuy2" => Self::Yuyv,
            "nv12" => Self::Nv12,
            "bayer_rggb8" => Self::BayerRggb8,
            "bayer_bggr8" => Self::BayerBggr8,
            "bayer_gbrg8" => Self::BayerGbrg8,
            "bayer_grbg8" => Self::BayerGrbg8,
            _ => return None,
        })
    }

    /// The ROS encoding name.
    pub fn encoding(self) -> &'static str {
        match self {
            Self::Rgb8 => "rgb8",
            Self::Bgr8 => "bgr8",
            Self::Rgba8 => "rgba8",
            Self::Bgra8 => "bgra8",
            Self::Mono8 => "mono8",
            Self::Uyvy => "uyvy",
            Self::Yuyv => "yuv422_yuy2",
            Self::Nv12 => "nv12",
            Self::BayerRggb8 => "bayer_rggb8",
            Self::BayerBggr8 => "bayer_bggr8",
            Self::BayerGbrg8 => "bayer_gbrg8",
            Self::BayerGrbg8 => "bayer_grbg8",
        }
    }

    /// Bytes of one row without padding (of the Y plane for NV12).
    pub fn row_bytes(self, width: u32) -> usize {
        let width = width as usize;
        match self {
            Self::Rgb8 | Self::Bgr8 => width * 3,
            Self::Rgba8 | Self::Bgra8 => width * 4,
            Self::Uyvy | Self::Yuyv => width * 2,
            Self::Mono8
            | Self::Nv12
            | Self::BayerRggb8
            | Self::BayerBggr8
            | Self::BayerGbrg8
            | Self::BayerGrbg8 => width,
        }
    }

    /// Rows of `step` bytes in a whole image: the height, or half as many again for NV12.
    pub fn rows(self, height: u32) -> usize {
        let height = height as usize;
        if self == Self::Nv12 { height + height / 2 } else { height }
    }

    /// Whether the format describes pixels in pairs, so that odd widths (and heights for NV12, Bayer) do not exist.
    pub fn fits(self, size: Size) -> bool {
        match self {
            Self::Uyvy | Self::Yuyv => size.width.is_multiple_of(2),
            Self::Nv12 | Self::BayerRggb8 | Self::BayerBggr8 | Self::BayerGbrg8 | Self::BayerGrbg8 => {
                size.width.is_multiple_of(2) && size.height.is_multiple_of(2)
            }
            _ => true,
        }
    }
}

/// One raw camera image, borrowed from the message that carried it.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Which camera took it.
    pub camera: CameraId,
    /// Header stamp of the message.
    pub stamp: Stamp,
    /// Columns and rows.
    pub size: Size,
    /// Layout of `data`.
    pub format: PixelFormat,
    /// Bytes from one row to the next, at least [`PixelFormat::row_bytes`].
    pub step: usize,
    /// The bytes of the message.
    pub data: &'a [u8],
}

impl Frame<'_> {
    /// Checks what the message claims against what it holds. Everything after it may index without fear.
    pub fn check(&self) -> Result<(), FrameError> {
        let Self { size, format, step, data, .. } = *self;
        if size.width == 0 || size.height == 0 {
            return Err(FrameError::ZeroSize { size });
        }
        if !format.fits(size) {
            return Err(FrameError::OddSize { size, encoding: format.encoding() });
        }
        let row = format.row_bytes(size.width);
        if step < row {
            return Err(FrameError::ShortStep { step, row, size, encoding: format.encoding() });
        }
        // The last row may come without its padding.
        let needed = step.checked_mul(format.rows(size.height) - 1).and_then(|n| n.checked_add(row));
        match needed {
            Some(needed) if data.len() >= needed => Ok(()),
            _ => Err(FrameError::ShortData { got: data.len(), needed: needed.unwrap_or(usize::MAX), size }),
        }
    }
}

/// Why one frame gave no labels. A rejected frame is counted by [`FrameError::reason`]; the stream goes on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum FrameError {
    #[error("the image is empty: {size}")]
    ZeroSize { size: Size },
    #[error("{encoding} describes pixels in pairs and cannot be {size}")]
    OddSize { size: Size, encoding: &'static str },
    #[error("step is {step} bytes, a {encoding} row of {size} needs {row}")]
    ShortStep { step: usize, row: usize, size: Size, encoding: &'static str },
    #[error("data holds {got} bytes, {size} with this step needs {needed}")]
    ShortData { got: usize, needed: usize, size: Size },
    #[error(
        "encoding `{encoding}` is not supported; supported are rgb8, bgr8, rgba8, bgra8, mono8, uyvy, yuyv, nv12 and bayer_*8"
    )]
    UnknownEncoding { encoding: String },
    #[error("cannot decode the {format} image: {why}")]
    Decode { format: String, why: String },
    #[error("the message is damaged: {why}")]
    Damaged { why: String },
    #[error("an image of {size} is too large: at most {limit} pixels a side")]
    TooLarge { size: Size, limit: u32 },
    #[error("the segmenter failed: {why}")]
    Segmenter { why: String },
}

impl FrameError {
    /// Short stable name for counters, the keys of `frames_rejected` in `summary.json`.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::ZeroSize { .. } => "zero_size",
            Self::OddSize { .. } => "odd_size",
            Self::ShortStep { .. } => "short_step",
            Self::ShortData { .. } => "short_data",
            Self::UnknownEncoding { .. } => "unknown_encoding",
            Self::Decode { .. } => "undecodable",
            Self::Damaged { .. } => "damaged_message",
            Self::TooLarge { .. } => "too_large",
            Self::Segmenter { .. } => "segmenter_failed",
        }
    }
}

/// A single-channel image of label values, rows without padding.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LabelImage {
    /// Columns and rows.
    pub size: Size,
    /// `size.pixels()` label values, row-major; [`UNLABELLED`] where there is none.
    pub data: Vec<u8>,
}

impl LabelImage {
    /// An image without labels.
    pub fn unlabelled(size: Size) -> Self {
        Self { size, data: vec![UNLABELLED; size.pixels()] }
    }
}

/// Name, colour and label value of a class. Several network outputs may share a label; the first names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassInfo {
    /// Name for people.
    pub name: String,
    /// RGB for pictures.
    pub colour: [u8; 3],
    /// Value in the label image.
    pub label: u8,
}

/// What the pipeline is asked to compute, and what it computed for one frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Coarse labels with refined pixels fused in.
    #[default]
    Refined,
    /// Coarse labels, upsampled.
    Coarse,
    /// A dense network at full resolution, for comparison.
    Dense,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Refined => "refined",
            Self::Coarse => "coarse",
            Self::Dense => "dense",
        })
    }
}

/// The steps of a frame, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "described in ARCHITECTURE.md, the frame's path")]
pub enum Stage {
    Upload,
    Preprocess,
    Segment,
    Select,
    Refine,
    Fuse,
    Download,
}

impl Stage {
    /// Every stage, in the order a frame passes them.
    pub const ALL: [Self; 7] = [
        Self::Upload,
        Self::Preprocess,
        Self::Segment,
        Self::Select,
        Self::Refine,
        Self::Fuse,
        Self::Download,
    ];

    /// Lower-case name, as in `stage_ms` of `summary.json`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Upload => "upload",
            Self::Preprocess => "preprocess",
            Self::Segment => "segment",
            Self::Select => "select",
            Self::Refine => "refine",
            Self::Fuse => "fuse",
            Self::Download => "download",
        }
    }
}

/// Milliseconds one frame spent in each stage.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct StageTimes([f64; Stage::ALL.len()]);

impl StageTimes {
    /// Adds to a stage's time.
    pub fn add(&mut self, stage: Stage, ms: f64) {
        self.0[stage as usize] += ms;
    }

    /// A stage's time in milliseconds.
    pub fn get(&self, stage: Stage) -> f64 {
        self.0[stage as usize]
    }

    /// All stages together, in milliseconds.
    pub fn total_ms(&self) -> f64 {
        self.0.iter().sum()
    }
}

/// What computes, and why this and no other.
#[derive(Clone, Debug, Default, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct BackendFacts {
    /// What runs the dense network, such as `rten`.
    pub segmenter: String,
    /// What runs the sparse network, such as `cpu (avx512)`.
    pub refiner: String,
    /// The processor or accelerator.
    pub device: String,
    /// Why it was chosen.
    pub reason: String,
}

/// What one frame cost and what was done to it.
#[derive(Clone, Debug, Default)]
pub struct FrameReport {
    /// Camera of the frame.
    pub camera: CameraId,
    /// Header stamp of the frame.
    pub stamp: Stamp,
    /// Camera resolution.
    pub size: Size,
    /// What was computed.
    pub mode: Mode,
    /// Pixels whose entropy exceeds alpha.
    pub pixels_selected: u32,
    /// Pixels the refiner saw: selected less dropped.
    pub pixels_refined: u32,
    /// Selected pixels the capacity left out, lowest entropy first.
    pub pixels_dropped: u32,
    /// Sum of the dropped pixels' entropies, in nats: how much doubt was left alone.
    pub dropped_entropy: f64,
    /// Active sites of each level of the sparse network, 0 beyond its depth.
    pub sites: [u32; MAX_LEVELS],
    /// Cells of the segmenter's grid with NaN or infinite logits; their pixels are unlabelled.
    pub non_finite_cells: u32,
    /// Time in each stage.
    pub stages: StageTimes,
}

impl FrameReport {
    /// Of a frame to which nothing has been done yet.
    pub fn of(frame: &Frame<'_>, mode: Mode) -> Self {
        Self { camera: frame.camera, stamp: frame.stamp, size: frame.size, mode, ..Self::default() }
    }

    /// Whether the time budget left none of the selected pixels to the refiner.
    pub fn is_coarse_only(&self) -> bool {
        self.mode == Mode::Refined && self.pixels_dropped > 0 && self.pixels_refined == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(size: Size, format: PixelFormat, step: usize, data: &[u8]) -> Frame<'_> {
        Frame { camera: CameraId(0), stamp: Stamp::default(), size, format, step, data }
    }

    #[test]
    fn encodings_round_trip() {
        for format in PixelFormat::ALL {
            assert_eq!(PixelFormat::from_encoding(format.encoding()), Some(format));
        }
        assert_eq!(PixelFormat::from_encoding("rgb16"), None);
    }

    #[test]
    fn frame_check_accepts_exact_and_padded_rows() {
        let size = Size::new(4, 2);
        assert_eq!(frame(size, PixelFormat::Rgb8, 12, &[0; 24]).check(), Ok(()));
        assert_eq!(frame(size, PixelFormat::Rgb8, 16, &[0; 28]).check(), Ok(()), "last row without padding");
        assert_eq!(frame(size, PixelFormat::Nv12, 4, &[0; 12]).check(), Ok(()));
    }

    #[test]
    fn frame_check_names_what_is_wrong() {
        let size = Size::new(4, 2);
        let cases = [
            (frame(Size::new(0, 2), PixelFormat::Rgb8, 12, &[]), "zero_size"),
            (frame(Size::new(3, 2), PixelFormat::Uyvy, 12, &[0; 24]), "odd_size"),
            (frame(size, PixelFormat::Rgb8, 11, &[0; 24]), "short_step"),
            (frame(size, PixelFormat::Rgb8, 12, &[0; 23]), "short_data"),
            (frame(size, PixelFormat::Rgb8, usize::MAX, &[0; 24]), "short_data"),
            (frame(size, PixelFormat::Nv12, 4, &[0; 11]), "short_data"),
        ];
        for (frame, reason) in cases {
            assert_eq!(frame.check().unwrap_err().reason(), reason);
        }
    }

    #[test]
    fn size_parses_and_refuses() {
        assert_eq!("3840x2160".parse(), Ok(Size::new(3840, 2160)));
        for wrong in ["", "3840", "3840x", "0x5", "-1x5", "axb"] {
            assert!(wrong.parse::<Size>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn stamps_round_trip_before_and_after_the_epoch() {
        for nanos in [0, 1, -1, 1_700_000_000_123_456_789, -2_000_000_001] {
            assert_eq!(Stamp::from_nanos(nanos).as_nanos(), nanos);
        }
    }
}
