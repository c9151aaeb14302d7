//! What the backends of the method `spatial_sparsity` share: where tiles lie, which of them run, and the two networks on
//! the host. Every backend selects with this very code, so that they cannot differ in it.

mod layout;
mod networks;
mod select;

pub use layout::{Layout, Rect, launches};
pub use networks::{Networks, coarse_file, fine_file, map_shape};
pub use select::{TileCounts, TileSelection};
