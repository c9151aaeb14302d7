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

/// The image in a serialized message. Raw pixels stay where they are; decoded ones are put into `scratch`, whose memory
/// is used again when it comes back with the next message.
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

fn failed(format: &str, why: impl ToString) -> FrameError {
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
    let row_bytes = size.width.checked_mul(bytes_per_label).unwrap_or(u32::MAX);
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

/// Labels out of a PNG, exactly as stored: the `image` crate would replace palette indices by colours, and stretch samples
/// of fewer than 8 bits.
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
mod tests;
