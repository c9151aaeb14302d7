//! The CUDA device an engine is for.

use std::fmt;

/// A CUDA device and its driver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// Such as `Orin`.
    pub name: String,
    /// Such as 87 for 8.7.
    pub compute_capability: u32,
    /// CUDA version of the driver, such as 12060 for 12.6.
    pub driver: u32,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, compute_capability, driver } = self;
        let (major, minor) = (compute_capability / 10, compute_capability % 10);
        let (cuda, update) = (driver / 1000, driver % 1000 / 10);
        write!(f, "{name}, compute capability {major}.{minor}, driver for CUDA {cuda}.{update}")
    }
}
