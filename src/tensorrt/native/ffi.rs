//! The C interface of `shim.cpp`, in its order.

use std::ffi::{c_char, c_void};

pub(super) type LogFn = extern "C" fn(user: *mut c_void, severity: i32, text: *const c_char);
pub(super) type ProgressFn = extern "C" fn(
    user: *mut c_void,
    phase: *const c_char,
    parent: *const c_char,
    step: i32,
    steps: i32,
) -> i32;
pub(super) type TensorFn = extern "C" fn(
    user: *mut c_void,
    is_input: i32,
    name: *const c_char,
    data_type: i32,
    rank: i32,
    dims: *const i64,
) -> i32;
pub(super) type BytesFn = extern "C" fn(user: *mut c_void, data: *const c_void, len: usize);
/// Address of one of TensorRT's `create…_INTERNAL` functions.
pub(super) type Factory = *const c_void;

/// The most lengths of a tensor, `Dims::MAX_DIMS`.
pub(super) const MAX_RANK: usize = 8;

/// Lengths of every shape that is set, `kRANK` of `shim.cpp`.
pub(super) const RANK: usize = 4;

/// An input and its shapes: what they have in common, then one for each run.
#[repr(C)]
pub(super) struct ShimInput {
    pub(super) name: *const c_char,
    pub(super) shapes: *const [i64; RANK],
}

/// What to build; explained in `shim.cpp`.
#[repr(C)]
pub(super) struct ShimBuild {
    pub(super) onnx: *const c_void,
    pub(super) onnx_len: usize,
    pub(super) workspace: usize,
    pub(super) inputs: *const ShimInput,
    pub(super) input_count: i32,
    pub(super) runs: i32,
    pub(super) outputs: *const *const c_char,
    pub(super) output_count: i32,
    pub(super) compute_capabilities: *const i32,
    pub(super) compute_capability_count: i32,
    pub(super) timing_cache: *const c_void,
    pub(super) timing_cache_len: usize,
    pub(super) allow_fp16: i32,
    pub(super) allow_int8: i32,
    pub(super) user: *mut c_void,
    pub(super) progress: ProgressFn,
    pub(super) tensor: TensorFn,
    pub(super) timing: BytesFn,
}

unsafe extern "C" {
    pub(super) fn shim_header_version(major: *mut i32, minor: *mut i32, patch: *mut i32, build: *mut i32);
    pub(super) fn shim_is_rtx() -> i32;
    pub(super) fn shim_logger_new(write: LogFn, user: *mut c_void) -> *mut c_void;
    pub(super) fn shim_logger_free(logger: *mut c_void);
    pub(super) fn shim_runtime_new(create: Factory, logger: *mut c_void) -> *mut c_void;
    pub(super) fn shim_runtime_free(runtime: *mut c_void);
    pub(super) fn shim_engine_new(runtime: *mut c_void, plan: *const c_void, len: usize) -> *mut c_void;
    pub(super) fn shim_engine_free(engine: *mut c_void);
    pub(super) fn shim_engine_context_bytes(engine: *mut c_void) -> i64;
    pub(super) fn shim_engine_io_count(engine: *mut c_void) -> i32;
    pub(super) fn shim_engine_io_name(engine: *mut c_void, index: i32) -> *const c_char;
    pub(super) fn shim_engine_io_info(
        engine: *mut c_void,
        name: *const c_char,
        is_input: *mut i32,
        data_type: *mut i32,
        is_linear: *mut i32,
        dims: *mut i64,
    ) -> i32;
    pub(super) fn shim_context_new(
        engine: *mut c_void,
        cache: *const c_void,
        cache_len: usize,
    ) -> *mut c_void;
    pub(super) fn shim_context_free(context: *mut c_void);
    pub(super) fn shim_context_compiled(context: *mut c_void) -> *mut c_void;
    pub(super) fn shim_context_set_address(
        context: *mut c_void,
        name: *const c_char,
        device_ptr: *mut c_void,
    ) -> i32;
    pub(super) fn shim_context_set_profile(context: *mut c_void, profile: i32, stream: *mut c_void) -> i32;
    pub(super) fn shim_context_set_shape(
        context: *mut c_void,
        name: *const c_char,
        shape: *const [i64; RANK],
    ) -> i32;
    pub(super) fn shim_context_shape(context: *mut c_void, name: *const c_char, dims: *mut i64) -> i32;
    pub(super) fn shim_context_enqueue(context: *mut c_void, stream: *mut c_void) -> i32;
    pub(super) fn shim_build(
        create_builder: Factory,
        create_parser: Factory,
        logger: *mut c_void,
        what: *const ShimBuild,
        stage: *mut i32,
        error: *mut c_char,
        error_len: usize,
    ) -> *mut c_void;
    pub(super) fn shim_memory_data(memory: *mut c_void, len: *mut usize) -> *const c_void;
    pub(super) fn shim_memory_free(memory: *mut c_void);
}
