//! The method `spatial_sparsity`: a coarse column on the reduced image gives scores and a weight map, a fine column runs
//! on the tiles that the map selects, and the map mixes the two. A reconstruction; `docs/methods.md` says of what.

mod backend;
mod fuse;
mod gather;
mod labels;
#[cfg(test)]
mod tests;

pub use backend::{TileBackend, TileSlot};
