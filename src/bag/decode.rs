//! From serialized messages to frames and label images: raw pixels are borrowed, JPEG and PNG are decoded.

use std::io::Cursor;

use image::codecs::jpeg::JpegDecoder;
use image::codecs::png::PngDecoder;
use image::{ColorType, ImageDecoder, ImageError, ImageFormat};

use super::cdr::{CompressedMsg, ImageMsg};
use super::topics::ImageKind;
use crate::types::{CameraId, Frame, FrameError, LabelImage, PixelFormat, Size, UNLABELLED};

/// Longest side of a compressed image that is decoded: a few bytes can claim any size.
pub const SIDE_LIMIT: u32 = 16_384;
/// Most memory a decoder may take on top of the pixels.
const MEMORY_LIMIT_BYTES: u64 = 1 << 28;
/// The 16-bit value of a pixel without label (`vision_msgs/LabelInfo`).
const UNLABELLED_16: u16 = u16::MAX;

/// A camera's image out of a message.
#[derive(Clone, Copy, Debug)]
pub struct CameraImage<'a> {
    /// Pixels, stamp and size; [`Frame::check`] has passed.
    pub frame: Frame<'a>,
    /// Header frame of the message.
    pub frame_id: &'a str,
}

/// The image in a serialized message. Raw pixels stay where they are; decoded ones are put into `scratch`, whose
/// memory is used again when it comes back with the next message.
pub fn camera_image<'a>(
    camera: CameraId,
    kind: ImageKind,
    cdr: &'a [u8],
    scratch: &'a mut Vec<u8>,
) -> Result<CameraImage<'a>, FrameError> {
    let image = match kind {
        ImageKind::Raw => {
            let ImageMsg { stamp, frame_id, size, encoding, step, data, .. } = ImageMsg::parse(cdr)?;
            let format = PixelFormat::from_encoding(encoding)
                .ok_or_else(|| FrameError::UnknownEncoding { encoding: encoding.to_owned() })?;
            let frame = Frame { camera, stamp, size, format, step: step as usize, data };
            CameraImage { frame, frame_id }
        }
        ImageKind::Compressed => {
            let CompressedMsg { stamp, frame_id, format, data } = CompressedMsg::parse(cdr)?;
            let (size, format) = decode(format, data, scratch)?;
            let step = format.row_bytes(size.width);
            CameraImage { frame: Frame { camera, stamp, size, format, step, data: scratch }, frame_id }
        }
    };
    image.frame.check()?;
    Ok(image)
}

/// The label image in a serialized message: raw with one channel of 8 or 16 bits, or a PNG with one channel or a palette
/// (whose indices are the labels). 16-bit labels above 254 do not fit, except 65535, which means unlabelled.
pub fn label_image(kind: ImageKind, cdr: &[u8]) -> Result<LabelImage, FrameError> {
    match kind {
        ImageKind::Raw => raw_labels(&ImageMsg::parse(cdr)?),
        ImageKind::Compressed => png_labels(CompressedMsg::parse(cdr)?.data),
    }
}

/// Decodes a JPEG or PNG file into `pixels`: `Rgb8`, `Rgba8` or `Mono8`, whatever is nearest; rows without padding.
fn decode(claimed: &str, data: &[u8], pixels: &mut Vec<u8>) -> Result<(Size, PixelFormat), FrameError> {
    match image::guess_format(data) {
        Ok(ImageFormat::Jpeg) => {
            // A decoder that meets the end of the file paints the rest grey. Cameras may pad behind the marker.
            let end = data.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            if !data[..end].ends_with(&[0xff, 0xd9]) {
                return Err(failed("jpeg", "the end of the file is missing"));
            }
            let decoder = JpegDecoder::new(Cursor::new(data)).map_err(|error| failed("jpeg", error))?;
            read("jpeg", decoder, pixels)
        }
        Ok(ImageFormat::Png) => {
            let decoder = PngDecoder::new(Cursor::new(data)).map_err(|error| failed("png", error))?;
            read("png", decoder, pixels)
        }
        _ => Err(failed(claimed, "the data are neither JPEG nor PNG")),
    }
}

fn failed(format: &str, why: impl std::fmt::Display) -> FrameError {
    FrameError::Decode { format: format.to_owned(), why: why.to_string() }
}

fn check_side(size: Size) -> Result<(), FrameError> {
    let too_large = size.width > SIDE_LIMIT || size.height > SIDE_LIMIT;
    if too_large { Err(FrameError::TooLarge { size, limit: SIDE_LIMIT }) } else { Ok(()) }
}

fn read(
    name: &str,
    mut decoder: impl ImageDecoder,
    pixels: &mut Vec<u8>,
) -> Result<(Size, PixelFormat), FrameError> {
    let (width, height) = decoder.dimensions();
    let size = Size::new(width, height);
    check_side(size)?;
    let wrong = |error: ImageError| failed(name, error);
    let colour = decoder.color_type();
    let bytes = size.pixels() * usize::from(colour.bytes_per_pixel());
    let mut limits = image::Limits::no_limits();
    limits.max_alloc = Some(MEMORY_LIMIT_BYTES + bytes as u64);
    decoder.set_limits(limits).map_err(wrong)?;
    pixels.resize(bytes, 0);
    decoder.read_image(pixels).map_err(wrong)?;
    let format = match colour {
        ColorType::L8 | ColorType::L16 | ColorType::La8 | ColorType::La16 => PixelFormat::Mono8,
        ColorType::Rgb8 | ColorType::Rgb16 => PixelFormat::Rgb8,
        ColorType::Rgba8 | ColorType::Rgba16 => PixelFormat::Rgba8,
        other => return Err(failed(name, format!("its colour type {other:?} is not supported"))),
    };
    if matches!(colour, ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16) {
        narrow(pixels);
    }
    if matches!(colour, ColorType::La8 | ColorType::La16) {
        drop_alpha(pixels);
    }
    Ok((size, format))
}

/// 16-bit samples in native byte order to 8 bits, rounded to nearest.
fn narrow(samples: &mut Vec<u8>) {
    for at in 0..samples.len() / 2 {
        let wide = u16::from_ne_bytes([samples[2 * at], samples[2 * at + 1]]);
        samples[at] = ((u32::from(wide) + 128) / 257) as u8;
    }
    samples.truncate(samples.len() / 2);
}

/// Grey and alpha to grey.
fn drop_alpha(samples: &mut Vec<u8>) {
    for at in 0..samples.len() / 2 {
        samples[at] = samples[2 * at];
    }
    samples.truncate(samples.len() / 2);
}

fn raw_labels(image: &ImageMsg<'_>) -> Result<LabelImage, FrameError> {
    let ImageMsg { size, encoding, is_bigendian, data, .. } = *image;
    let bytes_per_label = match encoding {
        "mono8" | "8UC1" => 1,
        "mono16" | "16UC1" => 2,
        other => {
            let why = "labels are mono8, 8UC1, mono16 or 16UC1";
            return Err(FrameError::Decode { format: other.to_owned(), why: why.to_owned() });
        }
    };
    let step = image.step as usize;
    // As a mono8 image of the row's bytes, which has the same rules of size, step and data.
    let row_bytes = size.width.saturating_mul(bytes_per_label);
    let bytes = Size::new(row_bytes, size.height);
    let (camera, format) = (CameraId::default(), PixelFormat::Mono8);
    Frame { camera, stamp: image.stamp, size: bytes, format, step, data }.check()?;
    let mut labels = Vec::with_capacity(size.pixels());
    for row in data.chunks(step).take(size.height as usize) {
        let row = &row[..row_bytes as usize];
        if bytes_per_label == 1 {
            labels.extend_from_slice(row);
        } else {
            append_wide(row, is_bigendian, encoding, &mut labels)?;
        }
    }
    Ok(LabelImage { size, data: labels })
}

fn append_wide(row: &[u8], big_endian: bool, format: &str, labels: &mut Vec<u8>) -> Result<(), FrameError> {
    for pair in row.chunks_exact(2) {
        let pair = [pair[0], pair[1]];
        let label = if big_endian { u16::from_be_bytes(pair) } else { u16::from_le_bytes(pair) };
        labels.push(match (label, u8::try_from(label)) {
            (UNLABELLED_16, _) => UNLABELLED,
            (_, Ok(label)) => label,
            _ => return Err(failed(format, format!("label {label} does not fit 8 bits"))),
        });
    }
    Ok(())
}

/// Labels out of a PNG, exactly as stored: the `image` crate would replace palette indices by colours, and stretch
/// samples of fewer than 8 bits.
fn png_labels(data: &[u8]) -> Result<LabelImage, FrameError> {
    let wrong = |error: png::DecodingError| failed("png", error);
    if !matches!(image::guess_format(data), Ok(ImageFormat::Png)) {
        return Err(failed("label", "the data are not a PNG, and other formats do not keep labels"));
    }
    let limits = png::Limits { bytes: MEMORY_LIMIT_BYTES as usize };
    let mut reader = png::Decoder::new_with_limits(Cursor::new(data), limits).read_info().map_err(wrong)?;
    let info = reader.info();
    let size = Size::new(info.width, info.height);
    check_side(size)?;
    let (colour, depth) = (info.color_type, info.bit_depth);
    if !matches!(colour, png::ColorType::Grayscale | png::ColorType::Indexed) {
        return Err(failed("png", format!("a label image has one channel, this one is {colour:?}")));
    }
    let row_bytes = info.raw_row_length() - 1;
    let mut packed = vec![0; reader.output_buffer_size().unwrap_or(0)];
    reader.next_frame(&mut packed).map_err(wrong)?;
    let mut labels = Vec::with_capacity(size.pixels());
    for row in packed.chunks_exact(row_bytes).take(size.height as usize) {
        match depth {
            png::BitDepth::Eight => labels.extend_from_slice(row),
            png::BitDepth::Sixteen => append_wide(row, true, "png", &mut labels)?,
            narrow => {
                let bits = narrow as u32;
                let per_byte = 8 / bits;
                labels.extend((0..size.width).map(|column| {
                    let byte = row[(column / per_byte) as usize];
                    byte >> (8 - bits * (column % per_byte + 1)) & ((1 << bits) - 1)
                }));
            }
        }
    }
    Ok(LabelImage { size, data: labels })
}

#[cfg(test)]
mod tests {
    use image::codecs::jpeg::JpegEncoder;
    use image::{ExtendedColorType, ImageEncoder};

    use super::*;
    use crate::types::Stamp;

    const STAMP: Stamp = Stamp { sec: 5, nanosec: 6 };

    fn raw(encoding: &str, size: Size, step: u32, is_bigendian: bool, data: &[u8]) -> Vec<u8> {
        let mut cdr = Vec::new();
        ImageMsg { stamp: STAMP, frame_id: "cam", size, encoding, is_bigendian, step, data }.write(&mut cdr);
        cdr
    }

    fn compressed(format: &str, data: &[u8]) -> Vec<u8> {
        let mut cdr = Vec::new();
        CompressedMsg { stamp: STAMP, frame_id: "cam", format, data }.write(&mut cdr);
        cdr
    }

    /// A PNG of `samples` as the format wants them (big-endian, packed bits).
    fn png(size: Size, colour: png::ColorType, depth: png::BitDepth, samples: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        let mut encoder = png::Encoder::new(&mut file, size.width, size.height);
        encoder.set_color(colour);
        encoder.set_depth(depth);
        if colour == png::ColorType::Indexed {
            encoder.set_palette((0..=255).flat_map(|index| [index, 0, 255 - index]).collect::<Vec<u8>>());
        }
        encoder.write_header().unwrap().write_image_data(samples).unwrap();
        file
    }

    fn jpeg(size: Size, colour: ExtendedColorType, pixels: &[u8]) -> Vec<u8> {
        let mut file = Vec::new();
        JpegEncoder::new_with_quality(&mut file, 95)
            .write_image(pixels, size.width, size.height, colour)
            .unwrap();
        file
    }

    fn decoded(file: &[u8]) -> Result<(Size, PixelFormat, Vec<u8>), FrameError> {
        // What is left in the memory of the frame before must not show.
        let mut scratch = vec![77; 1000];
        let cdr = compressed("any", file);
        let CameraImage { frame, frame_id } =
            camera_image(CameraId(3), ImageKind::Compressed, &cdr, &mut scratch)?;
        assert_eq!((frame.camera, frame.stamp, frame_id), (CameraId(3), STAMP, "cam"));
        Ok((frame.size, frame.format, frame.data.to_vec()))
    }

    #[test]
    fn raw_pixels_are_borrowed_with_their_padding() {
        let cdr = raw("bgr8", Size::new(1, 2), 4, false, &[1, 2, 3, 0, 4, 5, 6, 0]);
        let mut scratch = Vec::new();
        let CameraImage { frame, .. } =
            camera_image(CameraId(1), ImageKind::Raw, &cdr, &mut scratch).unwrap();
        assert_eq!((frame.format, frame.step, frame.size), (PixelFormat::Bgr8, 4, Size::new(1, 2)));
        assert_eq!(frame.data, [1, 2, 3, 0, 4, 5, 6, 0]);
        assert!(cdr.as_ptr_range().contains(&frame.data.as_ptr()));
    }

    #[test]
    fn raw_images_that_lie_are_refused() {
        let size = Size::new(2, 2);
        let cases = [
            (raw("rgb16", size, 12, false, &[0; 24]), "unknown_encoding"),
            (raw("rgb8", size, 6, false, &[0; 11]), "short_data"),
            (raw("rgb8", size, 5, false, &[0; 12]), "short_step"),
            (raw("rgb8", Size::new(0, 2), 0, false, &[]), "zero_size"),
            (vec![0, 1, 0], "damaged_message"),
        ];
        for (cdr, reason) in cases {
            let error = camera_image(CameraId(0), ImageKind::Raw, &cdr, &mut Vec::new()).unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
        }
    }

    #[test]
    fn png_of_every_kind_becomes_eight_bits() {
        use png::{BitDepth, ColorType};
        let size = Size::new(2, 1);
        let cases = [
            (ColorType::Grayscale, BitDepth::Eight, vec![7, 8], PixelFormat::Mono8, vec![7, 8]),
            (
                ColorType::Grayscale,
                BitDepth::Sixteen,
                vec![0x10, 0x10, 0xff, 0xff],
                PixelFormat::Mono8,
                vec![16, 255],
            ),
            (ColorType::GrayscaleAlpha, BitDepth::Eight, vec![7, 1, 8, 2], PixelFormat::Mono8, vec![7, 8]),
            (
                ColorType::Rgb,
                BitDepth::Eight,
                vec![1, 2, 3, 4, 5, 6],
                PixelFormat::Rgb8,
                vec![1, 2, 3, 4, 5, 6],
            ),
            (ColorType::Rgb, BitDepth::Sixteen, vec![1; 12], PixelFormat::Rgb8, vec![1; 6]),
            (ColorType::Rgba, BitDepth::Eight, vec![1; 8], PixelFormat::Rgba8, vec![1; 8]),
            (ColorType::Indexed, BitDepth::Eight, vec![5, 9], PixelFormat::Rgb8, vec![5, 0, 250, 9, 0, 246]),
        ];
        for (colour, depth, samples, format, pixels) in cases {
            let found = decoded(&png(size, colour, depth, &samples));
            assert_eq!(found, Ok((size, format, pixels)), "{colour:?} {depth:?}");
        }
    }

    #[test]
    fn jpeg_is_rgb_in_that_order_or_grey() {
        let size = Size::new(16, 8);
        let (found, format, pixels) =
            decoded(&jpeg(size, ExtendedColorType::Rgb8, &[200, 100, 20].repeat(size.pixels()))).unwrap();
        assert_eq!((found, format, pixels.len()), (size, PixelFormat::Rgb8, size.pixels() * 3));
        for (pixel, true_pixel) in pixels.iter().zip([200_u8, 100, 20].iter().cycle()) {
            assert!(pixel.abs_diff(*true_pixel) <= 3, "{pixel} for {true_pixel}");
        }
        let grey = decoded(&jpeg(size, ExtendedColorType::L8, &vec![90; size.pixels()])).unwrap();
        assert_eq!((grey.1, grey.2.len()), (PixelFormat::Mono8, size.pixels()));
    }

    #[test]
    fn every_truncation_of_a_file_is_refused() {
        let size = Size::new(24, 16);
        let pixels: Vec<u8> = (0..size.pixels() * 3).map(|at| (at * 37 % 251) as u8).collect();
        let files = [
            jpeg(size, ExtendedColorType::Rgb8, &pixels),
            png(size, png::ColorType::Rgb, png::BitDepth::Eight, &pixels),
        ];
        for file in files {
            assert!(decoded(&file).is_ok());
            // A PNG is whole before its 12-byte end chunk.
            for length in 0..file.len() - 12 {
                let error = decoded(&file[..length]).unwrap_err();
                assert_eq!(error.reason(), "undecodable", "{length} of {}: {error}", file.len());
            }
        }
    }

    #[test]
    fn damaged_files_never_panic() {
        let size = Size::new(16, 16);
        let pixels = vec![3; size.pixels() * 3];
        for file in [
            jpeg(size, ExtendedColorType::Rgb8, &pixels),
            png(size, png::ColorType::Rgb, png::BitDepth::Eight, &pixels),
        ] {
            for at in 0..file.len() {
                let mut damaged = file.clone();
                damaged[at] ^= 0x55;
                let _ = decoded(&damaged);
                let _ = label_image(ImageKind::Compressed, &compressed("png", &damaged));
            }
        }
    }

    #[test]
    fn a_small_file_cannot_claim_a_huge_image() {
        let mut file = png(Size::new(1, 1), png::ColorType::Grayscale, png::BitDepth::Eight, &[0]);
        file[16..20].copy_from_slice(&60_000_u32.to_be_bytes());
        let crc = crc32fast::hash(&file[12..29]);
        file[29..33].copy_from_slice(&crc.to_be_bytes());
        let size = Size::new(60_000, 1);
        let expected = FrameError::TooLarge { size, limit: SIDE_LIMIT };
        assert_eq!(decoded(&file).unwrap_err(), expected);
        assert_eq!(label_image(ImageKind::Compressed, &compressed("png", &file)), Err(expected));
    }

    #[test]
    fn raw_labels_of_both_widths_and_byte_orders() {
        let size = Size::new(2, 2);
        let labels = LabelImage { size, data: vec![1, 2, 3, 255] };
        let cases = [
            raw("mono8", size, 3, false, &[1, 2, 9, 3, 255, 9]),
            raw("8UC1", size, 2, false, &[1, 2, 3, 255]),
            raw("mono16", size, 4, false, &[1, 0, 2, 0, 3, 0, 255, 255]),
            raw("16UC1", size, 6, true, &[0, 1, 0, 2, 9, 9, 0, 3, 0, 255]),
        ];
        for cdr in cases {
            assert_eq!(label_image(ImageKind::Raw, &cdr), Ok(labels.clone()));
        }
        let refused = [
            (raw("mono16", size, 4, false, &[0, 1, 0, 0, 0, 0, 0, 0]), "undecodable"),
            (raw("rgb8", size, 6, false, &[0; 12]), "undecodable"),
            (raw("mono16", size, 3, false, &[0; 8]), "short_step"),
            (raw("mono16", Size::new(u32::MAX, 1), 4, false, &[0; 8]), "short_step"),
            (raw("mono8", size, 2, false, &[0; 3]), "short_data"),
        ];
        for (cdr, reason) in refused {
            let error = label_image(ImageKind::Raw, &cdr).unwrap_err();
            assert_eq!(error.reason(), reason, "{error}");
        }
    }

    #[test]
    fn png_labels_are_taken_as_stored() {
        use png::{BitDepth, ColorType};
        let size = Size::new(3, 2);
        let cases = [
            (ColorType::Grayscale, BitDepth::Eight, vec![0, 1, 2, 3, 4, 255], [0, 1, 2, 3, 4, 255]),
            (ColorType::Indexed, BitDepth::Eight, vec![0, 1, 2, 3, 4, 255], [0, 1, 2, 3, 4, 255]),
            (ColorType::Grayscale, BitDepth::Four, vec![0x12, 0x30, 0x4f, 0x60], [1, 2, 3, 4, 15, 6]),
            (ColorType::Indexed, BitDepth::Two, vec![0b0001_1000, 0b1100_0100], [0, 1, 2, 3, 0, 1]),
            (ColorType::Grayscale, BitDepth::One, vec![0b1010_0000, 0b0110_0000], [1, 0, 1, 0, 1, 1]),
            (
                ColorType::Grayscale,
                BitDepth::Sixteen,
                vec![0, 1, 0, 2, 255, 255, 0, 4, 0, 5, 0, 255],
                [1, 2, 255, 4, 5, 255],
            ),
        ];
        for (colour, depth, samples, labels) in cases {
            let cdr = compressed("mono8; png compressed ", &png(size, colour, depth, &samples));
            let expected = LabelImage { size, data: labels.to_vec() };
            assert_eq!(label_image(ImageKind::Compressed, &cdr), Ok(expected), "{colour:?} {depth:?}");
        }
    }

    #[test]
    fn label_images_with_colours_are_refused() {
        let size = Size::new(2, 1);
        let rgb = png(size, png::ColorType::Rgb, png::BitDepth::Eight, &[1; 6]);
        let error = label_image(ImageKind::Compressed, &compressed("png", &rgb)).unwrap_err();
        assert!(error.to_string().contains("one channel"), "{error}");
        let lossy = jpeg(size, ExtendedColorType::L8, &[1; 2]);
        let error = label_image(ImageKind::Compressed, &compressed("jpeg", &lossy)).unwrap_err();
        assert!(error.to_string().contains("not a PNG"), "{error}");
    }
}
