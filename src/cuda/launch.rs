//! Work on one stream: launches, copies, fills. Every kernel has a safe function that checks what it is given.
#![allow(unsafe_code, reason = "the driver is called with addresses")]

use std::ffi::c_void;

use cudarc::driver::{CudaStream, result};

use super::device::Device;
use super::error::{CudaError, During};
use super::memory::{Buffer, Number, Pinned};

/// Threads of a block, `BLOCK` of `common.cuh`.
pub(super) const BLOCK: u32 = 256;

/// Most parameters a kernel has.
const MOST_ARGS: usize = 32;

/// The parameters of a launch, each in eight bytes of which the driver reads as many as the kernel declares.
pub(super) struct Args {
    values: [u64; MOST_ARGS],
    len: usize,
}

impl Args {
    pub(super) fn new() -> Self {
        Self { values: [0; MOST_ARGS], len: 0 }
    }

    fn push(&mut self, value: u64) -> &mut Self {
        self.values[self.len] = value;
        self.len += 1;
        self
    }

    pub(super) fn buffer<T>(&mut self, buffer: &Buffer<T>) -> &mut Self {
        self.push(buffer.address())
    }

    pub(super) fn address(&mut self, address: u64) -> &mut Self {
        self.push(address)
    }

    pub(super) fn number(&mut self, value: impl TryInto<u32>) -> &mut Self {
        let Ok(value) = value.try_into() else { panic!("kernel parameters are 32 bits: images are smaller") };
        self.push(u64::from(value))
    }
}

/// How many blocks of how many threads.
#[derive(Clone, Copy)]
pub(super) struct Shape {
    pub(super) blocks: u32,
    pub(super) threads: u32,
    pub(super) shared_bytes: u32,
}

/// A stream of the device and the kernels to launch on it.
pub(super) struct Launcher<'a> {
    pub(super) device: &'a Device,
    pub(super) stream: &'a CudaStream,
}

impl Launcher<'_> {
    /// Blocks for a loop over `work` items, one per thread, in steps of the whole launch.
    pub(super) fn over(&self, work: usize) -> Shape {
        let blocks = work.div_ceil(BLOCK as usize).clamp(1, self.device.most_blocks as usize) as u32;
        Shape { blocks, threads: BLOCK, shared_bytes: 0 }
    }

    /// Exactly `blocks` blocks, for kernels that number them.
    pub(super) fn exactly(&self, blocks: usize) -> Shape {
        Shape { blocks: blocks.max(1) as u32, threads: BLOCK, shared_bytes: 0 }
    }

    /// Enqueues a kernel.
    ///
    /// # Safety
    /// The kernel has these parameters, in this order, and touches only what its buffers hold.
    pub(super) unsafe fn launch(
        &self,
        name: &'static str,
        shape: Shape,
        args: &mut Args,
    ) -> Result<(), CudaError> {
        let function = self.device.functions.get(name).expect("tests hold the names to the sources");
        let mut pointers = [std::ptr::null_mut::<c_void>(); MOST_ARGS];
        for (pointer, value) in pointers.iter_mut().zip(&mut args.values) {
            *pointer = std::ptr::from_mut(value).cast();
        }
        // SAFETY: the caller vouches for the parameters; they are copied before the call returns.
        unsafe {
            result::launch_kernel(
                function.cu_function(),
                (shape.blocks, 1, 1),
                (shape.threads, 1, 1),
                shape.shared_bytes,
                self.stream.cu_stream(),
                &mut pointers[..args.len],
            )
        }
        .during(name)
    }

    /// Fills the first `len` numbers with a byte.
    pub(super) fn fill<T: Number>(
        &self,
        buffer: &mut Buffer<T>,
        len: usize,
        byte: u8,
    ) -> Result<(), CudaError> {
        assert!(len <= buffer.len(), "{len} of {}", buffer.len());
        // SAFETY: within the buffer, checked above; it is borrowed exclusively while enqueued and the stream keeps order.
        unsafe {
            result::memset_d8_async(buffer.address(), byte, len * size_of::<T>(), self.stream.cu_stream())
        }
        .during("clearing device memory")
    }

    /// Copies the first `len` numbers to the device. The host leaves `from` alone until it has waited for the stream.
    pub(super) fn upload<T: Number>(
        &self,
        from: &Pinned<T>,
        to: &mut Buffer<T>,
        len: usize,
    ) -> Result<(), CudaError> {
        assert!(len <= to.len(), "{len} of {}", to.len());
        // SAFETY: within both, the slice checks the host's side.
        unsafe { result::memcpy_htod_async(to.address(), &from.as_slice()[..len], self.stream.cu_stream()) }
            .during("copying to the device")
    }

    /// Copies numbers to the device and waits: for start-up.
    pub(super) fn upload_now<T: Number>(&self, from: &[T], to: &mut Buffer<T>) -> Result<(), CudaError> {
        assert_eq!(from.len(), to.len());
        // SAFETY: as many numbers as the buffer holds; `from` outlives the copy, which is waited for.
        unsafe { result::memcpy_htod_async(to.address(), from, self.stream.cu_stream()) }
            .during("copying to the device")?;
        self.stream.synchronize().during("copying to the device")
    }

    /// Copies the first `len` numbers to the host, which reads `to` once it has waited for the stream.
    pub(super) fn download<T: Number>(
        &self,
        from: &Buffer<T>,
        to: &mut Pinned<T>,
        len: usize,
    ) -> Result<(), CudaError> {
        assert!(len <= from.len(), "{len} of {}", from.len());
        // SAFETY: within both, the slice checks the host's side.
        unsafe {
            result::memcpy_dtoh_async(&mut to.as_mut_slice()[..len], from.address(), self.stream.cu_stream())
        }
        .during("copying to the host")
    }
}
