//! The device: context and kernels, opened once.

use std::collections::HashMap;
use std::sync::Arc;

use cudarc::driver::{CudaContext, CudaFunction};

use super::error::{CudaError, During};
use super::memory::Allocator;
use super::modules;
use crate::types::Size;

/// A device with its kernels loaded.
pub struct Device {
    pub(super) context: Arc<CudaContext>,
    pub(super) functions: HashMap<String, CudaFunction>,
    /// Blocks that keep every multiprocessor busy: the most a launch over sites or pixels has.
    pub(super) most_blocks: u32,
    name: String,
    capability: u32,
}

/// Whether NVIDIA's driver is installed. Who has it expects it to be used.
#[allow(unsafe_code, reason = "cudarc marks the question whether a library is there unsafe")]
pub fn has_driver() -> bool {
    // SAFETY: opens and closes a shared library by name.
    unsafe { cudarc::driver::sys::is_culib_present() }
}

impl Device {
    /// Opens the first device.
    #[allow(unsafe_code, reason = "cudarc marks the end of its own event tracking unsafe")]
    pub fn open() -> Result<Self, CudaError> {
        // cudarc panics where the driver is absent, so ask first.
        if !has_driver() {
            return Err(CudaError::NoDriver);
        }
        let no_device = |why: String| CudaError::NoDevice { why };
        match CudaContext::device_count() {
            Ok(0) => return Err(no_device("it counts 0".into())),
            Ok(_) => {}
            Err(error) => return Err(no_device(error.to_string())),
        }
        let context = CudaContext::new(0).map_err(|error| no_device(error.to_string()))?;
        let name = context.name().during("the device's name")?;
        let (major, minor) = context.compute_capability().during("the compute capability")?;
        let capability = (major * 10 + minor) as u32;
        if capability < 70 {
            return Err(CudaError::TooOld { name, capability });
        }
        // SAFETY: every slot has one stream and waits for its own events; nothing relies on events per allocation.
        unsafe { context.disable_event_tracking() };
        let processors = context
            .attribute(cudarc::driver::sys::CUdevice_attribute::CU_DEVICE_ATTRIBUTE_MULTIPROCESSOR_COUNT)
            .during("the number of multiprocessors")?;
        let module = modules::load(&context, capability)?;
        let functions = modules::kernel_names()
            .into_iter()
            .map(|name| {
                let function = module.load_function(&name).during("looking up a kernel")?;
                Ok((name, function))
            })
            .collect::<Result<_, CudaError>>()?;
        Ok(Self { context, functions, most_blocks: processors.max(1) as u32 * 8, name, capability })
    }

    /// Name and architecture, such as `Orin (sm_87)`.
    pub fn name(&self) -> String {
        format!("{} (sm_{})", self.name, self.capability)
    }

    /// Whether the tensor-core kernels run here: they need asynchronous copies, sm_80.
    pub fn has_tensor_cores(&self) -> bool {
        self.capability >= 80
    }

    /// Free and total device memory in bytes.
    pub fn memory(&self) -> Result<(usize, usize), CudaError> {
        self.context.bind_to_thread().during("binding the context")?;
        self.context.mem_get_info().during("asking for free memory")
    }

    /// Whether what a dry run counted for a slot, and `beside` it in bytes, is free.
    pub(super) fn ensure_fits(&self, dry: &Allocator, beside: usize, camera: Size) -> Result<(), CudaError> {
        let needed = dry.device_bytes() + beside;
        let (free, _) = self.memory()?;
        if needed <= free {
            return Ok(());
        }
        let mut parts = dry.parts();
        parts.sort_by_key(|part| std::cmp::Reverse(part.1));
        let text = |part: &(&str, usize)| format!("{} {} MB", part.0, part.1.div_ceil(1 << 20));
        Err(CudaError::TooLittleMemory {
            free: (free >> 20) as u64,
            needed: needed.div_ceil(1 << 20) as u64,
            camera: camera.to_string(),
            largest: parts.iter().take(3).map(text).collect::<Vec<_>>().join(", "),
        })
    }
}
