//! The exported driver functions: C arguments in, [`Status`] out. The behaviour lives in the other modules.
//!
//! cudarc resolves a function at its first call and panics if it is missing, so what cudarc may reach and this driver
//! does not do is exported too and answers NOT_SUPPORTED.
#![allow(non_snake_case, clippy::missing_safety_doc)]

use std::ffi::{CStr, c_char, c_int, c_uint, c_void};
use std::sync::Arc;

use crate::config::config;
use crate::graphs::{self, Graph};
use crate::kernels::{self, Kernel, Module};
use crate::memory::{self, Kind};
use crate::schedule::{Event, Stream, event, stream, synchronize_all};
use crate::status::*;

type Handle = *mut c_void;
type DevicePtr = u64;
const CONTEXT: Handle = 0x1000 as Handle;

/// Calls that wait, allocate or free: a thread that captures a graph must not make them.
const NOT_IN_CAPTURE: &[&str] = &[
    "cuCtxSynchronize",
    "cuMemAlloc_v2",
    "cuMemFree_v2",
    "cuMemHostAlloc",
    "cuMemFreeHost",
    "cuStreamSynchronize",
    "cuStreamQuery",
    "cuStreamWaitEvent",
    "cuEventQuery",
    "cuEventSynchronize",
    "cuModuleLoadData",
];

fn answer(name: &str) -> Option<Status> {
    let refused = || NOT_IN_CAPTURE.contains(&name).then(|| graphs::refused(name))?;
    crate::faults::injected(name).or_else(refused)
}

macro_rules! api {
    ($(fn $name:ident($($arg:ident: $type:ty),* $(,)?) $body:block)*) => {
        $(#[unsafe(no_mangle)]
        #[allow(unused_unsafe)]
        pub unsafe extern "C" fn $name($($arg: $type),*) -> Status {
            if let Some(status) = answer(stringify!($name)) {
                return status;
            }
            unsafe { $body }
        })*
    };
}

// ---- device and context ----
api! {
    fn cuInit(_flags: c_uint) { OK }
    fn cuDriverGetVersion(version: *mut c_int) { *version = 12090; OK }
    fn cuDeviceGetCount(count: *mut c_int) { *count = 1; OK }
    fn cuDeviceGet(device: *mut c_int, index: c_int) {
        if index != 0 { return INVALID_DEVICE; }
        *device = 0;
        OK
    }
    fn cuDeviceGetName(name: *mut c_char, len: c_int, _device: c_int) {
        let text = c"cuemu (CPU)".to_bytes_with_nul();
        std::ptr::copy(text.as_ptr().cast(), name, text.len().min(len as usize));
        OK
    }
    fn cuDeviceTotalMem_v2(bytes: *mut usize, _device: c_int) { *bytes = config().memory; OK }
    fn cuDeviceGetAttribute(value: *mut c_int, attribute: c_int, _device: c_int) {
        *value = match attribute {
            1..=3 => 1024,   // threads per block, block x, block y
            4 => 64,         // block z
            5..=7 => 65535,  // grid
            8 => 49152,      // shared memory per block
            10 => 32,        // warp
            16 => config().processors, // multiprocessors
            39 => 2048,      // threads per multiprocessor
            75 => config().capability / 10,
            76 => config().capability % 10,
            97 => 166_912,   // shared memory per block, opt-in
            115 => 1,        // memory pools: cuMemAllocAsync is there
            _ => 0,
        };
        OK
    }
    fn cuDevicePrimaryCtxRetain(context: *mut Handle, _device: c_int) { *context = CONTEXT; OK }
    fn cuDevicePrimaryCtxRelease_v2(_device: c_int) { OK }
    fn cuCtxGetCurrent(context: *mut Handle) { *context = CONTEXT; OK }
    fn cuCtxSetCurrent(_context: Handle) { OK }
    fn cuCtxSetFlags(_flags: c_uint) { OK }
    fn cuCtxSynchronize() { synchronize_all() }
    fn cuGetErrorName(status: Status, text: *mut *const c_char) { *text = name(status).as_ptr(); OK }
    fn cuGetErrorString(status: Status, text: *mut *const c_char) { *text = name(status).as_ptr(); OK }
}

// ---- memory ----
api! {
    fn cuMemAlloc_v2(address: *mut DevicePtr, len: usize) {
        let Some(a) = memory::allocate(len, Kind::Device) else { return OUT_OF_MEMORY };
        *address = a as DevicePtr;
        OK
    }
    fn cuMemAllocAsync(address: *mut DevicePtr, len: usize, _stream: Handle) { cuMemAlloc_v2(address, len) }
    fn cuMemFree_v2(address: DevicePtr) {
        synchronize_all();
        memory::free(address as usize)
    }
    fn cuMemFreeAsync(address: DevicePtr, on: Handle) {
        stream(on).push(move || { memory::free(address as usize); })
    }
    fn cuMemHostAlloc(address: *mut Handle, len: usize, _flags: c_uint) {
        let Some(a) = memory::allocate(len, Kind::Pinned) else { return OUT_OF_MEMORY };
        *address = a as Handle;
        OK
    }
    fn cuMemFreeHost(address: Handle) { memory::free(address as usize) }
    fn cuMemAllocManaged(_address: *mut DevicePtr, _len: usize, _flags: c_uint) { NOT_SUPPORTED }
    fn cuMemGetInfo_v2(free: *mut usize, total: *mut usize) {
        *total = config().memory;
        *free = config().memory.saturating_sub(memory::device_bytes_in_use());
        OK
    }
    fn cuMemsetD8Async(address: DevicePtr, byte: u8, len: usize, on: Handle) {
        let status = memory::check_range(address as usize, len);
        if status != OK { return status; }
        stream(on).push(move || memory::fill(address as usize, byte, len))
    }
    fn cuMemcpyHtoDAsync_v2(to: DevicePtr, from: *const c_void, len: usize, on: Handle) {
        let (to, from) = (to as usize, from as usize);
        let status = memory::check_range(to, len);
        if status != OK { return status; }
        if memory::is_known(from) {
            // Pinned: read when its turn comes. Until then nobody may change it, unless a graph will read it anew.
            let on = stream(on);
            let issued = crate::lock(&on.capture).is_none().then(|| memory::digest(from, len));
            return on.push(move || memory::copy_unchanged(to, from, len, issued));
        }
        if let Some(status) = graphs::refused("a copy from pageable memory") { return status; }
        // Pageable: staged before the call returns.
        let staged = std::slice::from_raw_parts(from as *const u8, len).to_vec();
        stream(on).push(move || memory::copy(to, staged.as_ptr() as usize, len))
    }
    fn cuMemcpyDtoHAsync_v2(to: Handle, from: DevicePtr, len: usize, on: Handle) {
        let (to, from) = (to as usize, from as usize);
        let status = memory::check_range(from, len);
        if status != OK { return status; }
        let (on, pinned) = (stream(on), memory::is_known(to));
        if !pinned && let Some(status) = graphs::refused("a copy to pageable memory") { return status; }
        on.push(move || memory::copy(to, from, len));
        if pinned { OK } else { on.synchronize() } // pageable: synchronous
    }
    fn cuMemcpyDtoDAsync_v2(to: DevicePtr, from: DevicePtr, len: usize, on: Handle) {
        let (to, from) = (to as usize, from as usize);
        let status = memory::check_range(to, len) | memory::check_range(from, len);
        if status != OK { return status; }
        stream(on).push(move || memory::copy(to, from, len))
    }
}

// ---- streams and events ----
api! {
    fn cuStreamCreate(handle: *mut Handle, _flags: c_uint) { *handle = Arc::into_raw(Stream::new()) as Handle; OK }
    fn cuStreamCreateWithPriority(handle: *mut Handle, flags: c_uint, _priority: c_int) {
        cuStreamCreate(handle, flags)
    }
    fn cuStreamDestroy_v2(handle: Handle) { Arc::from_raw(handle as *const Stream).stop(); OK }
    fn cuStreamSynchronize(handle: Handle) { stream(handle).synchronize() }
    fn cuStreamQuery(handle: Handle) { if stream(handle).is_idle() { sticky() } else { NOT_READY } }
    fn cuStreamWaitEvent(handle: Handle, what: Handle, _flags: c_uint) {
        match event(what).last() {
            Some(ticket) => stream(handle).push_wait(ticket),
            None => OK,
        }
    }
    fn cuLaunchHostFunc(handle: Handle, f: extern "C" fn(Handle), data: Handle) {
        let data = data as usize;
        stream(handle).push(move || f(data as Handle))
    }
    fn cuEventCreate(handle: *mut Handle, _flags: c_uint) {
        *handle = Arc::into_raw(Arc::new(Event::default())) as Handle;
        OK
    }
    fn cuEventDestroy_v2(handle: Handle) { drop(Arc::from_raw(handle as *const Event)); OK }
    fn cuEventRecord(handle: Handle, on: Handle) { graphs::record(&event(handle), &stream(on), false) }
    fn cuEventRecordWithFlags(handle: Handle, on: Handle, flags: c_uint) {
        graphs::record(&event(handle), &stream(on), flags & 1 != 0)
    }
    fn cuEventQuery(handle: Handle) {
        match event(handle).last() {
            Some(ticket) if !ticket.poll() => NOT_READY,
            Some(_) => sticky(),
            None => OK,
        }
    }
    fn cuEventSynchronize(handle: Handle) {
        if let Some(ticket) = event(handle).last() { ticket.host_wait(); }
        sticky()
    }
    fn cuEventElapsedTime(milliseconds: *mut f32, start: Handle, end: Handle) {
        let at = |handle| event(handle).last().and_then(|ticket| ticket.completed_at());
        let (Some(start), Some(end)) = (at(start), at(end)) else { return NOT_READY };
        *milliseconds = end.saturating_duration_since(start).as_secs_f32() * 1e3;
        OK
    }
    fn cuEventElapsedTime_v2(milliseconds: *mut f32, start: Handle, end: Handle) {
        cuEventElapsedTime(milliseconds, start, end)
    }
}

// ---- graphs ----
api! {
    fn cuStreamBeginCapture_v2(handle: Handle, _mode: c_uint) { graphs::begin(&stream(handle)) }
    fn cuStreamEndCapture(handle: Handle, graph: *mut Handle) {
        match graphs::end(&stream(handle)) {
            Ok(captured) => { *graph = Box::into_raw(Box::new(captured)) as Handle; OK }
            Err(status) => status,
        }
    }
    fn cuStreamIsCapturing(handle: Handle, capturing: *mut c_int) {
        *capturing = c_int::from(crate::lock(&stream(handle).capture).is_some());
        OK
    }
    fn cuGraphInstantiateWithFlags(exec: *mut Handle, graph: Handle, _flags: u64) {
        *exec = Box::into_raw(Box::new((*(graph as *const Graph)).clone())) as Handle;
        OK
    }
    fn cuGraphLaunch(exec: Handle, on: Handle) {
        if sticky() != OK { return sticky(); }
        (*(exec as *const Graph)).launch(&stream(on))
    }
    fn cuGraphDestroy(graph: Handle) { drop(Box::from_raw(graph as *mut Graph)); OK }
    fn cuGraphExecDestroy(exec: Handle) { drop(Box::from_raw(exec as *mut Graph)); OK }
}

// ---- modules and launches ----
api! {
    fn cuModuleLoadData(module: *mut Handle, image: *const c_void) {
        let Some(loaded) = Module::load(image) else { return INVALID_IMAGE };
        *module = Box::into_raw(Box::new(loaded)) as Handle;
        OK
    }
    fn cuModuleLoad(module: *mut Handle, path: *const c_char) {
        let Ok(mut image) = std::fs::read(&*CStr::from_ptr(path).to_string_lossy()) else { return FILE_NOT_FOUND };
        image.push(0);
        cuModuleLoadData(module, image.as_ptr().cast())
    }
    fn cuModuleUnload(module: Handle) { drop(Box::from_raw(module as *mut Module)); OK }
    fn cuModuleGetFunction(function: *mut Handle, module: Handle, name: *const c_char) {
        match (*(module as *const Module)).function(CStr::from_ptr(name)) {
            Ok(kernel) => { *function = kernel as Handle; OK }
            Err(status) => status,
        }
    }
    fn cuFuncSetAttribute(_function: Handle, _attribute: c_int, _value: c_int) { OK }
    fn cuFuncGetAttribute(value: *mut c_int, _attribute: c_int, _function: Handle) { *value = 0; OK }
    fn cuLaunchKernel(
        function: Handle,
        grid_x: c_uint, grid_y: c_uint, grid_z: c_uint,
        block_x: c_uint, block_y: c_uint, block_z: c_uint,
        shared: c_uint, on: Handle, args: *mut Handle, _extra: *mut Handle,
    ) {
        let dims = [grid_x, grid_y, grid_z, block_x, block_y, block_z];
        let threads = u64::from(block_x) * u64::from(block_y) * u64::from(block_z);
        if dims.contains(&0) || threads > 1024 {
            if config().log { eprintln!("cuemu: launch of {dims:?} refused"); }
            return INVALID_VALUE;
        }
        kernels::launch(function as *const Kernel, dims, shared, &stream(on), args)
    }
}
