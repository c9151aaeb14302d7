//! Layers over the sites of one strip of a level, from the thread's scratch into the thread's scratch.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::super::sites::SiteSet;
use super::block::Block;
use super::isa::{InstructionSet, Lanes, dispatch};
use super::patches::Patches;
use super::rows::{Activation, Epilogue, Rows, RowsMut};
use super::strided::Activate;
use super::strips::{Strips, site_range};
use super::winograd::{Convolve, Winograd, WinogradScratch};

/// What one thread needs for one strip.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    pub(super) x: Vec<Lanes>,
    pub(super) skip: Vec<Lanes>,
    pub(super) activated: Vec<Lanes>,
    pub(super) hidden: Vec<Lanes>,
    pub(super) winograd: WinogradScratch,
}

/// Lends a thread its scratch. `work` must not hand over to rayon.
pub(super) fn with_scratch(scratch: &[Mutex<Scratch>], work: impl FnOnce(&mut Scratch)) {
    let thread = rayon::current_thread_index().unwrap_or(0) % scratch.len();
    work(&mut scratch[thread].lock().unwrap_or_else(PoisonError::into_inner));
}

/// A level while a strip of it is computed.
pub(super) struct Strip<'a> {
    pub(super) set: InstructionSet,
    pub(super) sites: &'a SiteSet,
    pub(super) patches: &'a Patches,
    pub(super) strips: &'a Strips,
    pub(super) strip: usize,
    pub(super) width: usize,
}

impl Strip<'_> {
    /// Sites of the strip and `halo` rows of tiles around it.
    pub(super) fn range(&self, halo: u32) -> Range<usize> {
        site_range(self.sites, &self.strips.widened(self.strip, halo))
    }

    pub(super) fn convolve(
        &self,
        conv: &Winograd,
        halo: u32,
        sources: &[Rows<'_>],
        epilogue: Epilogue<'_>,
        scratch: &mut WinogradScratch,
    ) {
        let patches = self.patches.rows(self.strips.widened(self.strip, halo));
        dispatch(self.set, Convolve { conv, patches, sources, epilogue, scratch });
    }

    /// `relu(bn2(conv1(...)))` of a block into `hidden`.
    pub(super) fn first_half(
        &self,
        block: &Block,
        halo: u32,
        sources: &[Rows<'_>],
        hidden: &mut [Lanes],
        scratch: &mut WinogradScratch,
    ) {
        let raw = Some(rows_mut(hidden, &self.range(halo), self.width));
        let epilogue = Epilogue { bias: Some(&block.bias), rectify: true, raw, ..Epilogue::default() };
        self.convolve(&block.conv1, halo, sources, epilogue, scratch);
    }

    pub(super) fn activate(
        &self,
        sites: &Range<usize>,
        source: Rows<'_>,
        how: &Activation,
        out: &mut [Lanes],
    ) {
        activate(self.set, sites, source, how, out);
    }
}

pub(super) fn activate(
    set: InstructionSet,
    sites: &Range<usize>,
    source: Rows<'_>,
    how: &Activation,
    out: &mut [Lanes],
) {
    let activated = Some((how, rows_mut(out, sites, source.width)));
    let epilogue = Epilogue { activated, ..Epilogue::default() };
    dispatch(set, Activate { first: sites.start as u32, count: sites.len(), source, epilogue });
}

pub(super) fn rows<'a>(data: &'a [Lanes], sites: &Range<usize>, width: usize) -> Rows<'a> {
    Rows { data, base: sites.start as u32, width }
}

pub(super) fn rows_mut<'a>(data: &'a mut [Lanes], sites: &Range<usize>, width: usize) -> RowsMut<'a> {
    RowsMut { data, base: sites.start as u32, width }
}
