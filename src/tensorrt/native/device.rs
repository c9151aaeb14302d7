//! What the NVIDIA driver says, asked before TensorRT is touched: TensorRT does not survive its absence well.

use std::ffi::{CStr, c_char, c_void};

use super::driver::{Driver, checked};
use crate::tensorrt::device::Device;
use crate::tensorrt::error::TensorRtError;

const COMPUTE_CAPABILITY_MAJOR: i32 = 75;
const COMPUTE_CAPABILITY_MINOR: i32 = 76;

/// The device with this number, as CUDA counts them.
pub fn device(ordinal: usize) -> Result<Device, TensorRtError> {
    let driver = Driver::open()?;
    // SAFETY: the signatures of cuda.h.
    unsafe {
        let init: unsafe extern "C" fn(u32) -> i32 = driver.function(c"cuInit")?;
        let version: unsafe extern "C" fn(*mut i32) -> i32 = driver.function(c"cuDriverGetVersion")?;
        let count: unsafe extern "C" fn(*mut i32) -> i32 = driver.function(c"cuDeviceGetCount")?;
        let get: unsafe extern "C" fn(*mut i32, i32) -> i32 = driver.function(c"cuDeviceGet")?;
        let name: unsafe extern "C" fn(*mut c_char, i32, i32) -> i32 = driver.function(c"cuDeviceGetName")?;
        let attribute: unsafe extern "C" fn(*mut i32, i32, i32) -> i32 =
            driver.function(c"cuDeviceGetAttribute")?;

        checked("cuInit", init(0))?;
        let (mut driver_version, mut devices, mut handle, mut major, mut minor) = (0, 0, 0, 0, 0);
        checked("cuDriverGetVersion", version(&mut driver_version))?;
        checked("cuDeviceGetCount", count(&mut devices))?;
        let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
        if number >= devices {
            return Err(TensorRtError::NoDevice { why: format!("device {ordinal} of {devices}") });
        }
        checked("cuDeviceGet", get(&mut handle, number))?;
        let mut text = [0_u8; 256];
        checked("cuDeviceGetName", name(text.as_mut_ptr().cast(), text.len() as i32 - 1, handle))?;
        checked("cuDeviceGetAttribute", attribute(&mut major, COMPUTE_CAPABILITY_MAJOR, handle))?;
        checked("cuDeviceGetAttribute", attribute(&mut minor, COMPUTE_CAPABILITY_MINOR, handle))?;
        Ok(Device {
            name: CStr::from_bytes_until_nul(&text).unwrap_or_default().to_string_lossy().into_owned(),
            compute_capability: (major * 10 + minor) as u32,
            driver: driver_version as u32,
        })
    }
}

/// Makes the primary context of a device, which CUDA libraries share, the calling thread's own.
pub fn make_current(ordinal: usize) -> Result<(), TensorRtError> {
    let driver = Driver::open()?;
    let number = i32::try_from(ordinal).unwrap_or(i32::MAX);
    // SAFETY: the signatures of cuda.h. The context is never released: engines live in it until the process ends.
    unsafe {
        let get: unsafe extern "C" fn(*mut i32, i32) -> i32 = driver.function(c"cuDeviceGet")?;
        let retain: unsafe extern "C" fn(*mut *mut c_void, i32) -> i32 =
            driver.function(c"cuDevicePrimaryCtxRetain")?;
        let set: unsafe extern "C" fn(*mut c_void) -> i32 = driver.function(c"cuCtxSetCurrent")?;
        let (mut handle, mut context) = (0, std::ptr::null_mut());
        checked("cuDeviceGet", get(&mut handle, number))?;
        checked("cuDevicePrimaryCtxRetain", retain(&mut context, handle))?;
        checked("cuCtxSetCurrent", set(context))?;
    }
    Ok(())
}
