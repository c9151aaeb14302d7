//! One run of an engine on a known input, waited for: the last step of a probe.

use std::ffi::{CStr, c_void};
use std::sync::Arc;

use super::driver::Driver;
use super::runtime::{Context, Engine};
use crate::tensorrt::error::TensorRtError;
use crate::tensorrt::tensors::{NetworkEnds, TensorEntry};

/// What the output holds before the run. No arithmetic gives this NaN.
const UNWRITTEN: u32 = 0xffff_ffff;
const NON_BLOCKING: u32 = 1;

type Status = i32;

/// The few driver functions of a run.
struct Functions {
    alloc: unsafe extern "C" fn(*mut u64, usize) -> Status,
    free: unsafe extern "C" fn(u64) -> Status,
    to_device: unsafe extern "C" fn(u64, *const c_void, usize) -> Status,
    to_host: unsafe extern "C" fn(*mut c_void, u64, usize) -> Status,
    stream_create: unsafe extern "C" fn(*mut *mut c_void, u32) -> Status,
    stream_synchronize: unsafe extern "C" fn(*mut c_void) -> Status,
    stream_destroy: unsafe extern "C" fn(*mut c_void) -> Status,
    synchronize: unsafe extern "C" fn() -> Status,
}

impl Functions {
    fn open() -> Result<Self, TensorRtError> {
        let driver = Driver::open()?;
        // SAFETY: the signatures of cuda.h; `_v2` is what that header makes of the short names.
        unsafe {
            Ok(Self {
                alloc: driver.function(c"cuMemAlloc_v2")?,
                free: driver.function(c"cuMemFree_v2")?,
                to_device: driver.function(c"cuMemcpyHtoD_v2")?,
                to_host: driver.function(c"cuMemcpyDtoH_v2")?,
                stream_create: driver.function(c"cuStreamCreate")?,
                stream_synchronize: driver.function(c"cuStreamSynchronize")?,
                stream_destroy: driver.function(c"cuStreamDestroy_v2")?,
                synchronize: driver.function(c"cuCtxSynchronize")?,
            })
        }
    }
}

fn done(what: &CStr, status: Status) -> Result<(), TensorRtError> {
    if status == 0 {
        return Ok(());
    }
    Err(TensorRtError::WarmUp { why: format!("{} gives status {status}", what.to_string_lossy()) })
}

/// Device memory that is freed with its owner.
struct Memory<'a> {
    functions: &'a Functions,
    address: u64,
}

impl<'a> Memory<'a> {
    fn new(functions: &'a Functions, values: &[u32]) -> Result<Self, TensorRtError> {
        let bytes = size_of_val(values);
        let mut address = 0;
        // SAFETY: writes one address; the context of the device is current.
        done(c"cuMemAlloc", unsafe { (functions.alloc)(&mut address, bytes) })?;
        let memory = Self { functions, address };
        // SAFETY: both are `bytes` long; the copy is over when the call returns.
        done(c"cuMemcpyHtoD", unsafe { (functions.to_device)(address, values.as_ptr().cast(), bytes) })?;
        Ok(memory)
    }
}

impl Drop for Memory<'_> {
    fn drop(&mut self) {
        // SAFETY: allocated by `new`; the stream that used it was destroyed, which waits for nothing but is only done
        // after a wait or a failure.
        let _ = unsafe { (self.functions.free)(self.address) };
    }
}

/// A stream that is destroyed with its owner.
struct Stream<'a> {
    functions: &'a Functions,
    handle: *mut c_void,
}

impl Drop for Stream<'_> {
    fn drop(&mut self) {
        // SAFETY: created below, used by nobody afterwards.
        let _ = unsafe { (self.functions.stream_destroy)(self.handle) };
    }
}

fn numbers(shape: &[i64]) -> usize {
    shape.iter().map(|&length| usize::try_from(length).unwrap_or(0)).product()
}

/// Runs the engine once with each of its shapes, on a ramp, and looks whether every output was written. `compiled` is
/// what an earlier start left; what to keep for the next is returned. The device's primary context is current.
pub fn warm_up(
    engine: &Arc<Engine>,
    ends: &NetworkEnds,
    compiled: &[u8],
) -> Result<Option<Vec<u8>>, TensorRtError> {
    let functions = Functions::open()?;
    let mut context = Context::new(engine, compiled)?;
    for run in 0..ends.runs() {
        try_run(&functions, &mut context, ends, run)?;
    }
    Ok(context.compiled())
}

fn try_run(
    functions: &Functions,
    context: &mut Context,
    ends: &NetworkEnds,
    run: usize,
) -> Result<(), TensorRtError> {
    let ramp =
        |len: usize| -> Vec<u32> { (0..len).map(|at| ((at % 256) as f32 / 64.0 - 2.0).to_bits()).collect() };
    let memory = |entry: &TensorEntry, fill: &dyn Fn(usize) -> Vec<u32>| {
        Memory::new(functions, &fill(numbers(&entry.shapes[run])))
    };
    let inputs = ends.inputs.iter().map(|entry| memory(entry, &ramp)).collect::<Result<Vec<_>, _>>()?;
    let blank = |len: usize| vec![UNWRITTEN; len];
    let outputs = ends.outputs.iter().map(|entry| memory(entry, &blank)).collect::<Result<Vec<_>, _>>()?;
    let mut stream = Stream { functions, handle: std::ptr::null_mut() };
    // SAFETY: writes one handle. The stream is non-blocking, so the copies above are waited for explicitly.
    unsafe {
        done(c"cuStreamCreate", (functions.stream_create)(&mut stream.handle, NON_BLOCKING))?;
        done(c"cuCtxSynchronize", (functions.synchronize)())?;
    }
    if ends.runs() > 1 {
        // SAFETY: the stream is of the current context.
        unsafe { context.set_run(ends, run, stream.handle as u64)? };
        for output in &ends.outputs {
            let (has, wants) = (context.shape(&output.name), output.shapes[run]);
            if has != wants {
                let why = format!("output `{}` is {has:?} where the bundle says {wants:?}", output.name);
                return Err(TensorRtError::WarmUp { why });
            }
        }
    }
    // SAFETY: all are as large as the tensors, which were compared just now or by `NetworkEnds::check_all`, and outlive
    // the wait below; the stream is of the current context.
    unsafe {
        for (entry, memory) in ends.inputs.iter().zip(&inputs).chain(ends.outputs.iter().zip(&outputs)) {
            context.set_address(&entry.name, memory.address)?;
        }
        context.enqueue(stream.handle as u64)?;
        done(c"cuStreamSynchronize", (functions.stream_synchronize)(stream.handle))?;
    }
    for (entry, memory) in ends.outputs.iter().zip(&outputs) {
        let mut values = blank(numbers(&entry.shapes[run]));
        let bytes = size_of_val(values.as_slice());
        // SAFETY: both are `bytes` long; the copy is over when the call returns.
        let copied = unsafe { (functions.to_host)(values.as_mut_ptr().cast(), memory.address, bytes) };
        done(c"cuMemcpyDtoH", copied)?;
        let unwritten = values.iter().filter(|&&bits| bits == UNWRITTEN).count();
        if unwritten > 0 {
            let why =
                format!("it left {unwritten} of {} numbers of `{}` unwritten", values.len(), entry.name);
            return Err(TensorRtError::WarmUp { why });
        }
    }
    Ok(())
}
