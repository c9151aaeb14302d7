//! In which numbers the sparse network computes. Also in builds without CUDA.

/// How the sparse network computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Precision {
    /// 32-bit floats on ordinary cores: slow, within 1e-4 of the CPU.
    Single,
    /// Halves on tensor cores with 32-bit sums; between layers the residual stream stays in 32 bits.
    Half,
}

impl Precision {
    /// Name in reports.
    pub fn name(self) -> &'static str {
        match self {
            Self::Single => "f32",
            Self::Half => "f16 tensor cores",
        }
    }
}
