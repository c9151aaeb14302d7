//! Device buffers and page-locked host buffers. Allocated when a slot is made, never while frames flow.
#![allow(unsafe_code, reason = "memory of the driver is reached by address")]

use std::marker::PhantomData;
use std::sync::Arc;

use cudarc::driver::{CudaContext, result, sys};

use super::error::{CudaError, During};

/// Plain numbers: every bit pattern is a value, and the device lays them out as the host does.
pub(super) trait Number: Copy + Default + Send + 'static {}
impl Number for u8 {}
impl Number for u16 {}
impl Number for u32 {}
impl Number for f32 {}

/// Numbers in device memory; in a dry run an address that is nowhere.
#[derive(Debug)]
pub(super) struct Buffer<T> {
    context: Option<Arc<CudaContext>>,
    address: u64,
    len: usize,
    numbers: PhantomData<T>,
}

impl<T> Buffer<T> {
    pub(super) fn address(&self) -> u64 {
        self.address
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }
}

impl<T> Drop for Buffer<T> {
    fn drop(&mut self) {
        let Some(context) = &self.context else { return };
        // An error here belongs to earlier work and was, or will be, reported by a stage.
        let _ = context.bind_to_thread();
        // SAFETY: the address came from `malloc_sync` and is freed once; freeing waits for the device.
        let _ = unsafe { result::free_sync(self.address) };
    }
}

/// Page-locked host memory, which the device copies to and from in the background.
///
/// The driver's copies do not stop the host from touching it: whoever holds it must have waited for the stream first.
#[derive(Debug)]
pub(super) struct Pinned<T> {
    context: Option<Arc<CudaContext>>,
    start: *mut T,
    len: usize,
}

// SAFETY: the memory belongs to this value alone and is not tied to a thread.
unsafe impl<T: Send> Send for Pinned<T> {}

impl<T: Number> Pinned<T> {
    pub(super) fn as_slice(&self) -> &[T] {
        if self.context.is_none() {
            return &[];
        }
        // SAFETY: `len` numbers were allocated and zeroed at `start`, which is aligned to a page.
        unsafe { std::slice::from_raw_parts(self.start, self.len) }
    }

    /// Memory for an output, made when that is first asked for.
    pub(super) fn on_demand<'a>(
        place: &'a mut Option<Self>,
        context: &Arc<CudaContext>,
        len: usize,
    ) -> Result<&'a mut Self, CudaError> {
        if place.is_none() {
            *place = Some(Allocator::new(context).pinned(len, false)?);
        }
        Ok(place.as_mut().expect("filled above"))
    }

    pub(super) fn as_mut_slice(&mut self) -> &mut [T] {
        if self.context.is_none() {
            return &mut [];
        }
        // SAFETY: as above, and the borrow is exclusive.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.len) }
    }
}

impl<T> Drop for Pinned<T> {
    fn drop(&mut self) {
        let Some(context) = &self.context else { return };
        let _ = context.bind_to_thread();
        // A copy may still be under way when a frame ended early.
        let _ = context.synchronize();
        // SAFETY: the address came from `malloc_host` and is freed once, with the device at rest.
        let _ = unsafe { result::free_host(self.start.cast()) };
    }
}

/// Hands out memory, or in a dry run only counts it; keeps a list of what each part takes.
pub(super) struct Allocator {
    context: Option<Arc<CudaContext>>,
    device: Vec<(&'static str, usize)>,
    pinned_bytes: usize,
}

impl Allocator {
    pub(super) fn new(context: &Arc<CudaContext>) -> Self {
        Self { context: Some(context.clone()), device: Vec::new(), pinned_bytes: 0 }
    }

    /// Counts without a device.
    pub(super) fn dry() -> Self {
        Self { context: None, device: Vec::new(), pinned_bytes: 0 }
    }

    /// Bytes of device memory by part, in the order of allocation, equal parts together.
    pub(super) fn parts(&self) -> Vec<(&'static str, usize)> {
        let mut parts: Vec<(&'static str, usize)> = Vec::new();
        for &(name, bytes) in &self.device {
            match parts.iter_mut().find(|part| part.0 == name) {
                Some(part) => part.1 += bytes,
                None => parts.push((name, bytes)),
            }
        }
        parts
    }

    pub(super) fn device_bytes(&self) -> usize {
        self.device.iter().map(|part| part.1).sum()
    }

    pub(super) fn pinned_bytes(&self) -> usize {
        self.pinned_bytes
    }

    /// `len` numbers of device memory holding anything; at least one, so that the address is real.
    pub(super) fn buffer<T: Number>(
        &mut self,
        part: &'static str,
        len: usize,
    ) -> Result<Buffer<T>, CudaError> {
        let bytes = len.max(1) * size_of::<T>();
        // The driver hands out multiples of this.
        self.device.push((part, bytes.next_multiple_of(512)));
        let address = match &self.context {
            // SAFETY: the driver's plain allocation; the numbers are written before they are read.
            Some(_) => unsafe { result::malloc_sync(bytes) }.during("device memory")?,
            None => 0,
        };
        Ok(Buffer { context: self.context.clone(), address, len, numbers: PhantomData })
    }

    /// `len` numbers of page-locked memory, zeroed. Write-combined memory is for the host to write only.
    pub(super) fn pinned<T: Number>(
        &mut self,
        len: usize,
        write_combined: bool,
    ) -> Result<Pinned<T>, CudaError> {
        let bytes = len.max(1) * size_of::<T>();
        self.pinned_bytes += bytes;
        let start: *mut T = match &self.context {
            Some(_) => {
                let flags = if write_combined { sys::CU_MEMHOSTALLOC_WRITECOMBINED } else { 0 };
                // SAFETY: the driver's plain allocation, zeroed before anything sees it.
                unsafe {
                    let start = result::malloc_host(bytes, flags).during("page-locked host memory")?;
                    std::ptr::write_bytes(start.cast::<u8>(), 0, bytes);
                    start.cast()
                }
            }
            None => std::ptr::null_mut(),
        };
        Ok(Pinned { context: self.context.clone(), start, len })
    }
}
