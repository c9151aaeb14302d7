//! From ONNX to a serialised engine.

use std::ffi::{CStr, CString, c_char, c_void};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::Arc;

use super::ffi;
use super::library::Library;
use super::runtime::take_memory;
use crate::tensorrt::build_options::{BuildOptions, Plan, Precision, Progress};
use crate::tensorrt::error::TensorRtError;
use crate::tensorrt::tensors::{ElementType, EngineTensor, NetworkEnds, TensorEntry};

/// Stages of `shim_build`.
const CREATE_PARSER: i32 = 3;
const PARSE: i32 = 4;
const TENSORS: i32 = 5;
const UNSUPPORTED: i32 = 6;
const CAPABILITY: i32 = 8;

/// A log that holds so much of a reason's beginning holds the reason.
const REPEATED_CHARS: usize = 40;
/// Room for a reason.
const ERROR_BYTES: usize = 512;

/// What the callbacks of a build reach.
struct Watch<'a> {
    ends: Option<&'a NetworkEnds>,
    tensors: Vec<EngineTensor>,
    refused: Option<TensorRtError>,
    timing_cache: Option<Vec<u8>>,
    progress: &'a mut dyn FnMut(Progress<'_>),
}

/// Builds an engine. TensorRT-RTX needs no GPU for it; full TensorRT builds for, and times kernels on, the device.
pub fn build(
    library: &Arc<Library>,
    onnx: &[u8],
    path: &Path,
    options: &BuildOptions<'_>,
    progress: &mut dyn FnMut(Progress<'_>),
) -> Result<Plan, TensorRtError> {
    let parser = library.parser()?;
    let create_builder = library.factory(c"createInferBuilder_INTERNAL")?;
    let create_parser = parser.factory()?;
    let name = |text: &str| {
        CString::new(text).map_err(|_| TensorRtError::Parser {
            log: format!("the tensor name {text:?} holds a zero byte"),
            path: path.into(),
        })
    };
    let entries = |of: fn(&NetworkEnds) -> &[TensorEntry]| options.ends.map(of).unwrap_or_default();
    let (inputs, outputs) = (entries(|ends| &ends.inputs), entries(|ends| &ends.outputs));
    let names =
        |entries: &[TensorEntry]| entries.iter().map(|entry| name(&entry.name)).collect::<Result<_, _>>();
    let (input_names, output_names): (Vec<CString>, Vec<CString>) = (names(inputs)?, names(outputs)?);
    let shapes: Vec<Vec<[i64; ffi::RANK]>> =
        inputs.iter().map(|entry| [&[entry.common()], &entry.shapes[..]].concat()).collect();
    let inputs: Vec<_> = input_names
        .iter()
        .zip(&shapes)
        .map(|(name, shapes)| ffi::ShimInput { name: name.as_ptr(), shapes: shapes.as_ptr() })
        .collect();
    let outputs: Vec<_> = output_names.iter().map(|name| name.as_ptr()).collect();
    let runs = options.ends.map_or(0, NetworkEnds::runs);
    // The shim reads as many shapes of every input.
    assert!(shapes.iter().all(|shapes| shapes.len() == runs + 1), "every tensor has a shape in every run");
    let capabilities: Vec<i32> =
        options.compute_capabilities.iter().map(|&sm| i32::try_from(sm).unwrap_or(i32::MAX)).collect();
    let mut watch =
        Watch { ends: options.ends, tensors: Vec::new(), refused: None, timing_cache: None, progress };
    let what = ffi::ShimBuild {
        onnx: onnx.as_ptr().cast(),
        onnx_len: onnx.len(),
        workspace: options.workspace_bytes,
        inputs: inputs.as_ptr(),
        input_count: inputs.len() as i32,
        runs: runs as i32,
        outputs: outputs.as_ptr(),
        output_count: outputs.len() as i32,
        compute_capabilities: capabilities.as_ptr(),
        compute_capability_count: capabilities.len() as i32,
        timing_cache: options.timing_cache.as_ptr().cast(),
        timing_cache_len: options.timing_cache.len(),
        allow_fp16: i32::from(options.precision == Precision::Fp16),
        allow_int8: i32::from(options.precision == Precision::Int8),
        user: std::ptr::from_mut(&mut watch).cast(),
        progress: on_progress,
        tensor: on_tensor,
        timing: on_timing,
    };
    let (mut stage, mut error) = (0, [0_u8; ERROR_BYTES]);
    let log = library.log();
    log.clear();
    // SAFETY: the factories come from libraries of the headers' version; all that `what` points to outlives the call,
    // and the callbacks are made within it, one at a time: `shim_build` holds the only way to `watch`.
    let engine = unsafe {
        let memory = ffi::shim_build(
            create_builder,
            create_parser,
            log.handle(),
            &what,
            &mut stage,
            error.as_mut_ptr().cast(),
            error.len(),
        );
        take_memory(memory)
    };
    if let Some(refused) = watch.refused {
        return Err(refused);
    }
    if let Some(engine) = engine {
        if let Some(ends) = options.ends {
            ends.check_all(&watch.tensors)?;
        }
        return Ok(Plan { engine, timing_cache: watch.timing_cache });
    }
    let reason = CStr::from_bytes_until_nul(&error).unwrap_or_default().to_string_lossy();
    let reason = reason.split_whitespace().collect::<Vec<_>>().join(" ");
    // The parser logs its reason too.
    let start: String = reason.chars().take(REPEATED_CHARS).collect();
    let log = log.take();
    let log = if log.contains(&start) { log } else { format!("{reason}: {log}") };
    Err(match stage {
        PARSE | CREATE_PARSER => TensorRtError::Parser { log, path: path.into() },
        UNSUPPORTED => TensorRtError::NoPrecisionFlags {
            library: format!("{} {}", library.flavour(), library.version()),
        },
        CAPABILITY => TensorRtError::ComputeCapability {
            library: format!("{} {}", library.flavour(), library.version()),
            asked: options.compute_capabilities.to_vec(),
            log,
        },
        TENSORS => TensorRtError::Parser { log: "a tensor was refused".to_owned(), path: path.into() },
        _ => TensorRtError::Build { log, path: path.into() },
    })
}

/// Runs a callback with the build's `Watch`; a panic must not pass through TensorRT's frames.
fn with_watch<T>(user: *mut c_void, otherwise: T, callback: impl FnOnce(&mut Watch<'_>) -> T) -> T {
    // SAFETY: `user` is the `Watch` of a `build` that waits for `shim_build`, which calls back one at a time.
    let watch = unsafe { &mut *user.cast::<Watch<'_>>() };
    catch_unwind(AssertUnwindSafe(|| callback(watch))).unwrap_or(otherwise)
}

fn text(pointer: *const c_char) -> String {
    if pointer.is_null() {
        return String::new();
    }
    // SAFETY: TensorRT's strings are C strings for the time of the callback.
    unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned()
}

extern "C" fn on_progress(
    user: *mut c_void,
    phase: *const c_char,
    parent: *const c_char,
    step: i32,
    steps: i32,
) -> i32 {
    with_watch(user, 1, |watch| {
        let (phase, parent) = (text(phase), text(parent));
        let report = match step {
            0 => Progress::Start { phase: &phase, parent: &parent, steps: u32::try_from(steps).unwrap_or(0) },
            step if step < 0 => Progress::Finish { phase: &phase },
            step => Progress::Step { phase: &phase, step: u32::try_from(step).unwrap_or(0) },
        };
        (watch.progress)(report);
        1
    })
}

extern "C" fn on_tensor(
    user: *mut c_void,
    is_input: i32,
    name: *const c_char,
    data_type: i32,
    rank: i32,
    dims: *const i64,
) -> i32 {
    with_watch(user, 0, |watch| {
        let rank = usize::try_from(rank).unwrap_or_default().min(ffi::MAX_RANK);
        // SAFETY: the shim passes an array of at least `rank` lengths.
        let shape = unsafe { std::slice::from_raw_parts(dims, rank) }.to_vec();
        let element = ElementType::from_number(data_type);
        let tensor =
            EngineTensor { name: text(name), is_input: is_input != 0, element, is_linear: true, shape };
        match watch.ends.map_or(Ok(()), |ends| ends.check(&tensor)) {
            Ok(()) => {
                watch.tensors.push(tensor);
                1
            }
            Err(error) => {
                watch.refused = Some(error);
                0
            }
        }
    })
}

extern "C" fn on_timing(user: *mut c_void, data: *const c_void, len: usize) {
    with_watch(user, (), |watch| {
        if !data.is_null() {
            // SAFETY: the shim passes `len` bytes that live for the time of the call.
            watch.timing_cache = Some(unsafe { std::slice::from_raw_parts(data.cast::<u8>(), len) }.to_vec());
        }
    });
}
