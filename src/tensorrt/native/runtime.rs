//! Runtime, engine, context. Each holds what it came from, so that nothing is freed before its user.

use std::ffi::{CStr, CString, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use super::ffi;
use super::library::Library;
use crate::tensorrt::error::TensorRtError;
use crate::tensorrt::tensors::{ElementType, EngineTensor, NetworkEnds, TensorEntry};

/// Opens engines.
pub struct Runtime {
    handle: *mut c_void,
    library: Arc<Library>,
}

// SAFETY: a TensorRT object may move between threads; it is used through `&self` only where TensorRT allows it.
unsafe impl Send for Runtime {}
// SAFETY: its one use, opening an engine, is behind `Engine::open`, which TensorRT's runtime guards itself.
unsafe impl Sync for Runtime {}

impl Runtime {
    /// Starts TensorRT. Ask the driver first (`native::device`): without one some versions return an invalid pointer.
    pub fn new(library: &Arc<Library>) -> Result<Self, TensorRtError> {
        let create = library.factory(c"createInferRuntime_INTERNAL")?;
        library.log().clear();
        // SAFETY: the factory has the signature of the headers' major version, which `Library::open` compared.
        let handle = unsafe { ffi::shim_runtime_new(create, library.log().handle()) };
        if handle.is_null() {
            return Err(TensorRtError::RuntimeInit { log: library.log().take() });
        }
        Ok(Self { handle, library: Arc::clone(library) })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        // SAFETY: made by `shim_runtime_new`; every engine that came from it held it alive.
        unsafe { ffi::shim_runtime_free(self.handle) }
    }
}

/// A network in device memory.
pub struct Engine {
    handle: *mut c_void,
    runtime: Arc<Runtime>,
    /// TensorRT does not promise that contexts may be made side by side.
    making: Mutex<()>,
}

// SAFETY: as for `Runtime`.
unsafe impl Send for Engine {}
// SAFETY: its questions read constants; making a context is behind a mutex.
unsafe impl Sync for Engine {}

impl Engine {
    /// Opens a serialised engine on the calling thread's CUDA device.
    pub fn open(runtime: &Arc<Runtime>, plan: &[u8]) -> Result<Self, TensorRtError> {
        let log = runtime.library.log();
        log.clear();
        // SAFETY: the runtime is alive; TensorRT reads `plan` within the call and checks it.
        let handle = unsafe { ffi::shim_engine_new(runtime.handle, plan.as_ptr().cast(), plan.len()) };
        if handle.is_null() {
            return Err(TensorRtError::EngineRejected { log: log.take() });
        }
        Ok(Self { handle, runtime: Arc::clone(runtime), making: Mutex::new(()) })
    }

    /// Device memory that each context takes for itself.
    pub fn context_bytes(&self) -> usize {
        // SAFETY: the engine is alive.
        usize::try_from(unsafe { ffi::shim_engine_context_bytes(self.handle) }).unwrap_or(0)
    }

    /// Its inputs and outputs.
    pub fn tensors(&self) -> Vec<EngineTensor> {
        // SAFETY: the engine is alive.
        let count = unsafe { ffi::shim_engine_io_count(self.handle) };
        (0..count).filter_map(|index| self.tensor(index)).collect()
    }

    fn tensor(&self, index: i32) -> Option<EngineTensor> {
        let (mut is_input, mut data_type, mut is_linear) = (0, 0, 0);
        let mut dims = [0_i64; ffi::MAX_RANK];
        // SAFETY: the engine is alive and `index` below its count; `dims` has room for the longest shape.
        let (name, rank) = unsafe {
            let name = ffi::shim_engine_io_name(self.handle, index);
            if name.is_null() {
                return None;
            }
            let rank = ffi::shim_engine_io_info(
                self.handle,
                name,
                &mut is_input,
                &mut data_type,
                &mut is_linear,
                dims.as_mut_ptr(),
            );
            (CStr::from_ptr(name), rank)
        };
        let rank = usize::try_from(rank).unwrap_or_default().min(dims.len());
        Some(EngineTensor {
            name: name.to_string_lossy().into_owned(),
            is_input: is_input != 0,
            element: ElementType::from_number(data_type),
            is_linear: is_linear != 0,
            shape: dims[..rank].to_vec(),
        })
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // SAFETY: made by `shim_engine_new`; every context that came from it held it alive.
        unsafe { ffi::shim_engine_free(self.handle) }
    }
}

/// An engine's working memory for one frame in flight.
pub struct Context {
    handle: *mut c_void,
    engine: Arc<Engine>,
}

// SAFETY: a context may be used from any thread, by one at a time; `&mut self` sees to that.
unsafe impl Send for Context {}

impl Context {
    /// Makes a context on the calling thread's CUDA device. `compiled` is what [`Context::compiled`] gave earlier.
    pub fn new(engine: &Arc<Engine>, compiled: &[u8]) -> Result<Self, TensorRtError> {
        let _one_at_a_time = engine.making.lock().unwrap_or_else(PoisonError::into_inner);
        let log = engine.runtime.library.log();
        log.clear();
        // SAFETY: the engine is alive and lives as long as the context.
        let handle =
            unsafe { ffi::shim_context_new(engine.handle, compiled.as_ptr().cast(), compiled.len()) };
        if handle.is_null() {
            return Err(TensorRtError::ContextInit { log: log.take() });
        }
        Ok(Self { handle, engine: Arc::clone(engine) })
    }

    /// What was compiled for this device (TensorRT-RTX), to start faster next time.
    pub fn compiled(&self) -> Option<Vec<u8>> {
        // SAFETY: the context is alive; the memory is copied and freed once.
        unsafe { take_memory(ffi::shim_context_compiled(self.handle)) }
    }

    /// Says where a tensor is in device memory.
    ///
    /// # Safety
    /// `address` is device memory of the engine's device, as large as the tensor, until after the last enqueue.
    pub unsafe fn set_address(&mut self, tensor: &str, address: u64) -> Result<(), TensorRtError> {
        let name = CString::new(tensor).map_err(|_| self.failed("address of a tensor"))?;
        // SAFETY: the context is alive; the address is the caller's promise.
        let set =
            unsafe { ffi::shim_context_set_address(self.handle, name.as_ptr(), address as *mut c_void) };
        if set == 0 { Err(self.failed("address of a tensor")) } else { Ok(()) }
    }

    /// Chooses the run of [`NetworkEnds`], by its number, that is enqueued next. Not for engines that have one only.
    ///
    /// # Safety
    /// `stream` is a `CUstream` of the engine's device whose context is current on this thread.
    pub unsafe fn set_run(
        &mut self,
        ends: &NetworkEnds,
        run: usize,
        stream: u64,
    ) -> Result<(), TensorRtError> {
        let number = i32::try_from(run).unwrap_or(i32::MAX);
        // SAFETY: the context is alive; the stream is the caller's promise.
        let set = unsafe { ffi::shim_context_set_profile(self.handle, number, stream as *mut c_void) };
        if set == 0 {
            return Err(self.failed("profile of a run"));
        }
        for TensorEntry { name, shapes } in &ends.inputs {
            let name = CString::new(name.as_str()).map_err(|_| self.failed("shape of an input"))?;
            // SAFETY: the context is alive; the shape has as many lengths as the shim reads.
            let set = unsafe { ffi::shim_context_set_shape(self.handle, name.as_ptr(), &shapes[run]) };
            if set == 0 {
                return Err(self.failed("shape of an input"));
            }
        }
        Ok(())
    }

    /// The shape that a tensor has in the chosen run; nothing where the context has no such tensor.
    pub fn shape(&self, tensor: &str) -> Vec<i64> {
        let Ok(name) = CString::new(tensor) else { return Vec::new() };
        let mut dims = [0_i64; ffi::MAX_RANK];
        // SAFETY: the context is alive; `dims` has room for the longest shape.
        let rank = unsafe { ffi::shim_context_shape(self.handle, name.as_ptr(), dims.as_mut_ptr()) };
        dims[..usize::try_from(rank).unwrap_or_default().min(dims.len())].to_vec()
    }

    /// Puts the network on a stream and returns without waiting.
    ///
    /// # Safety
    /// `stream` is a `CUstream` of the engine's device whose context is current on this thread, and stays valid until
    /// the work is done; every tensor has an address.
    pub unsafe fn enqueue(&mut self, stream: u64) -> Result<(), TensorRtError> {
        // SAFETY: the context is alive; stream and addresses are the caller's promise.
        let queued = unsafe { ffi::shim_context_enqueue(self.handle, stream as *mut c_void) };
        if queued == 0 { Err(self.failed("enqueue")) } else { Ok(()) }
    }

    fn failed(&self, stage: &'static str) -> TensorRtError {
        TensorRtError::Enqueue { stage, log: self.engine.runtime.library.log().take() }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `shim_context_new`. Whoever enqueued waited for the stream (the slot does).
        unsafe { ffi::shim_context_free(self.handle) }
    }
}

/// The bytes of TensorRT's memory object, which is freed.
///
/// # Safety
/// `memory` is null or one of TensorRT's memory objects, not used elsewhere.
pub(super) unsafe fn take_memory(memory: *mut c_void) -> Option<Vec<u8>> {
    if memory.is_null() {
        return None;
    }
    let mut len = 0;
    // SAFETY: the object is alive until `shim_memory_free`, its data is `len` bytes or null.
    unsafe {
        let data = ffi::shim_memory_data(memory, &mut len);
        let bytes = (!data.is_null()).then(|| std::slice::from_raw_parts(data.cast::<u8>(), len).to_vec());
        ffi::shim_memory_free(memory);
        bytes
    }
}
