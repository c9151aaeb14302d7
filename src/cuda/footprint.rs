//! What a plan takes on a device. Also in builds without CUDA, where nobody can count it.

use crate::types::Size;

/// Memory and launches for one camera size.
#[derive(Clone, Debug)]
pub struct Footprint {
    /// Device memory of one slot by part, in bytes.
    pub slot: Vec<(&'static str, usize)>,
    /// Page-locked host memory of one slot, in bytes.
    pub pinned_bytes: usize,
    /// Device memory of the weights, shared by all slots, in bytes.
    pub weights_bytes: usize,
    /// Size of each level of the sparse network and the most sites it can have.
    pub levels: Vec<(Size, usize)>,
    /// Blocks of the launches that number them: by name. All others loop over their work with as many blocks as fill the
    /// device.
    pub blocks: Vec<(String, usize)>,
}

impl Footprint {
    /// Device memory of one slot, in bytes.
    pub fn slot_bytes(&self) -> usize {
        self.slot.iter().map(|part| part.1).sum()
    }
}
