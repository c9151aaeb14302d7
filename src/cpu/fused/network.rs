//! The refiner's U-Net, executed strip by strip: what lies between the layers of a strip stays in the cache of the thread
//! that computes it. A level's sites are in memory twice: as it goes down and as it comes up.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use super::super::kernel_map::coarser_size;
use super::super::sites::{Pixel, SiteSet};
use super::super::sparse_conv::Affine;
use super::super::split::{Split, split};
use super::block::{Block, Step};
use super::isa::{InstructionSet, Lanes, dispatch};
use super::layers::{Scratch, Strip, activate, rows, rows_mut, with_scratch};
use super::patches::Patches;
use super::rows::{Activation, Epilogue, Rows, RowsMut};
use super::strided::{Down, Pointwise, Taps, Up};
use super::strips::{Strips, grow};
use super::winograd::Winograd;
use crate::bundle::refiner::{Linear, RefinerSpec, RefinerWeights};
use crate::types::{MAX_LEVELS, Size};

/// Coarse rows that a strided convolution computes at a time, from an activated copy of the fine rows.
const DOWN_ROWS: u32 = 8;

/// Gives the features of sites as padded vectors.
pub(crate) trait SiteFeatures: Sync {
    /// Fills `out`, `[pixels, width]` vectors, for the consecutive sites `first..`, whose pixels are given.
    fn fill(&self, first: u32, pixels: &[Pixel], width: usize, out: &mut [Lanes]);
}

#[derive(Clone, Debug)]
struct Level {
    /// Vectors of a site.
    width: usize,
    pre: Vec<Block>,
    descent: Option<Descent>,
    /// What the reader of the level's result sees of it.
    leave: Activation,
}

#[derive(Clone, Debug)]
struct Descent {
    down: Step,
    up: Taps,
    post: Vec<Block>,
}

/// The U-Net with its classifier, weights packed for this processor.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    set: InstructionSet,
    spec: RefinerSpec,
    /// Vectors of a site's features.
    input_width: usize,
    stem: Winograd,
    levels: Vec<Level>,
    classifier: Taps,
    classifier_bias: Vec<Lanes>,
}

/// What the network writes. Kept between frames, it stops allocating once it has seen the largest.
#[derive(Debug, Default)]
pub(crate) struct NetworkMemory {
    levels: Vec<LevelMemory>,
    scratch: Vec<Mutex<Scratch>>,
    sites: [u32; MAX_LEVELS],
}

/// Refined logits of the sites of a frame, the same number of vectors each.
#[derive(Debug, Default)]
pub(crate) struct RefinedLogits(pub(super) Vec<Lanes>);

#[derive(Debug, Default)]
struct LevelMemory {
    /// Unused at the finest level, whose sites are the caller's.
    sites: SiteSet,
    patches: Patches,
    strips: Strips,
    /// From the level above; later, what goes back to it.
    outside: Vec<Lanes>,
    /// Result of the blocks on the way down.
    x: Vec<Lanes>,
}

impl NetworkMemory {
    /// Sites of each level in the last run.
    pub(crate) fn sites(&self) -> [u32; MAX_LEVELS] {
        self.sites
    }
}

impl Network {
    /// Packs the weights.
    pub(crate) fn new(weights: &RefinerWeights, set: InstructionSet) -> Self {
        let planes = &weights.spec.planes;
        let leave = |i: usize| {
            let norm = match i.checked_sub(1).and_then(|above| weights.levels[above].descent.as_ref()) {
                Some(descent) => &descent.up.bn,
                None => &weights.head,
            };
            Activation::new(&Affine::new(norm), 0, planes[i])
        };
        let levels = weights.levels.iter().zip(planes).enumerate().map(|(i, (level, &channels))| Level {
            width: channels.div_ceil(super::isa::LANES),
            pre: level.pre.iter().map(|block| Block::new(block, &[channels])).collect(),
            descent: level.descent.as_ref().map(|descent| Descent {
                down: Step::new(&descent.down),
                up: Step::new(&descent.up).conv,
                post: blocks_after_concat(&descent.post, channels),
            }),
            leave: leave(i),
        });
        let Linear { inputs, outputs, ref weight, ref bias } = weights.classifier;
        let transposed: Vec<f32> =
            (0..inputs * outputs).map(|index| weight[index % outputs * inputs + index / outputs]).collect();
        let spec = weights.spec.clone();
        Self {
            set,
            input_width: spec.input_channels().div_ceil(super::isa::LANES),
            stem: Winograd::new(&weights.stem, &[spec.input_channels()], |_| 1.0),
            levels: levels.collect(),
            classifier: Taps::new(&transposed, &[inputs], outputs),
            classifier_bias: Lanes::pack(bias),
            spec,
        }
    }

    /// The architecture.
    pub(crate) fn spec(&self) -> &RefinerSpec {
        &self.spec
    }

    /// Vectors of a site's refined logits.
    pub(crate) fn logit_width(&self) -> usize {
        self.classifier_bias.len()
    }

    /// Computes the refined logits of `sites`, whose size is that of the canvas.
    pub(crate) fn run(
        &self,
        sites: &SiteSet,
        features: &impl SiteFeatures,
        memory: &mut NetworkMemory,
        RefinedLogits(logits): &mut RefinedLogits,
    ) {
        self.prepare(sites, memory);
        grow(logits, sites.len() * self.logit_width());
        let NetworkMemory { levels, scratch, .. } = memory;
        for i in 0..self.levels.len() {
            let (above, below) = levels.split_at_mut(i + 1);
            let level = &mut above[i];
            let own = if i == 0 { sites } else { &level.sites };
            let LevelMemory { patches, strips, outside, x, .. } = level;
            let width = self.levels[i].width;
            let x = &mut x[..own.len() * width];
            split(Split { starts: &strips.starts, width, smallest: 1 }, x, &|strip, starts, x| {
                let _span = tracing::trace_span!("down", level = i, strip).entered();
                let x = RowsMut { data: x, base: starts[0], width };
                let strip = Strip { set: self.set, sites: own, patches, strips, strip, width };
                with_scratch(scratch, |scratch| match i {
                    0 => self.enter_finest(&strip, features, x, scratch),
                    _ => self.descend(&strip, i, outside, x, scratch),
                });
            });
            if let (Some(descent), Some(coarser)) = (&self.levels[i].descent, below.first_mut()) {
                let fine = Rows { data: x, base: 0, width };
                self.go_down(i, descent, own, fine, coarser, scratch);
            }
        }
        for i in (0..self.levels.len()).rev() {
            let Some(descent) = &self.levels[i].descent else { continue };
            let (above, below) = levels.split_at_mut(i + 1);
            let level = &mut above[i];
            let own = if i == 0 { sites } else { &level.sites };
            let LevelMemory { patches, strips, outside, x, .. } = level;
            let width = self.levels[i].width;
            let bottom = self.levels[i + 1].descent.is_none();
            let coarse = if bottom { &below[0].x } else { &below[0].outside };
            let coarse = (&below[0].sites, Rows { data: coarse, base: 0, width: self.levels[i + 1].width });
            let (out, out_width) = if i == 0 { (&mut *logits, self.logit_width()) } else { (outside, width) };
            let out = &mut out[..own.len() * out_width];
            let x = Rows { data: x, base: 0, width };
            split(
                Split { starts: &strips.starts, width: out_width, smallest: 1 },
                out,
                &|strip, starts, out| {
                    let _span = tracing::trace_span!("up", level = i, strip).entered();
                    let out = RowsMut { data: out, base: starts[0], width: out_width };
                    let strip = Strip { set: self.set, sites: own, patches, strips, strip, width };
                    with_scratch(scratch, |scratch| self.ascend(&strip, i, descent, x, coarse, out, scratch));
                },
            );
        }
        if self.levels.len() == 1 {
            self.classify_only(sites, levels, logits);
        }
    }

    /// Finds the coarser sites, cuts every level, and takes all memory that the run needs.
    fn prepare(&self, finest: &SiteSet, memory: &mut NetworkMemory) {
        let NetworkMemory { levels, scratch, sites } = memory;
        levels.resize_with(self.levels.len(), LevelMemory::default);
        scratch.resize_with(rayon::current_num_threads().max(1), Mutex::default);
        *sites = [0; MAX_LEVELS];
        let (mut narrow, mut twice) = (0, 0);
        for i in 0..self.levels.len() {
            let _span = tracing::trace_span!("index", level = i).entered();
            if i > 0 {
                let (finer, rest) = levels.split_at_mut(i);
                let finer = if i == 1 { finest } else { &finer[i - 1].sites };
                rest[0].sites.rebuild_coarser(coarser_size(finer, self.spec.bound), finer);
            }
            let LevelMemory { sites: own, patches, strips, outside, x } = &mut levels[i];
            let own = if i == 0 { finest } else { own };
            sites[i] = own.len() as u32;
            patches.rebuild(own);
            let Level { width, descent, .. } = &self.levels[i];
            strips.rebuild(own, 2 * self.spec.blocks as u32 + u32::from(i == 0));
            grow(x, own.len() * width);
            if i > 0 {
                grow(outside, own.len() * width);
            }
            let widest = if i == 0 { (*width).max(self.input_width) } else { *width };
            narrow = narrow.max(strips.most_sites * widest);
            twice = twice.max(strips.most_sites * width * if descent.is_some() { 2 } else { 1 });
            if descent.is_some() {
                let coarse = coarser_size(own, self.spec.bound);
                for row in (0..coarse.height).step_by(DOWN_ROWS as usize) {
                    let fine = fine_rows(own, &(row..(row + DOWN_ROWS).min(coarse.height)));
                    twice = twice.max(fine.len() * width);
                }
            }
        }
        for scratch in scratch {
            let scratch = scratch.get_mut().unwrap_or_else(PoisonError::into_inner);
            grow(&mut scratch.x, narrow);
            grow(&mut scratch.skip, narrow);
            grow(&mut scratch.hidden, narrow);
            grow(&mut scratch.activated, twice);
        }
    }

    /// Stem and blocks of the finest level.
    fn enter_finest(
        &self,
        strip: &Strip<'_>,
        features: &impl SiteFeatures,
        out: RowsMut<'_>,
        s: &mut Scratch,
    ) {
        let pre = &self.levels[0].pre;
        let halo = 2 * pre.len() as u32;
        let (width, input_width) = (strip.width, self.input_width);
        let wide = strip.range(halo + 1);
        let input = &mut s.hidden[..wide.len() * input_width];
        features.fill(wide.start as u32, &strip.sites.pixels()[wide.clone()], input_width, input);
        let input = Rows { data: input, base: wide.start as u32, width: input_width };
        let inner = strip.range(halo);
        let epilogue = Epilogue {
            raw: Some(rows_mut(&mut s.x, &inner, width)),
            activated: Some((&pre[0].enter[0], rows_mut(&mut s.activated, &inner, width))),
            ..Epilogue::default()
        };
        strip.convolve(&self.stem, halo, &[input], epilogue, &mut s.winograd);
        self.blocks(strip, pre, &self.levels[0], None, out, s);
    }

    /// Blocks of a coarser level on the way down.
    fn descend(&self, strip: &Strip<'_>, i: usize, outside: &[Lanes], out: RowsMut<'_>, s: &mut Scratch) {
        let pre = &self.levels[i].pre;
        let wide = strip.range(2 * pre.len() as u32);
        let incoming = Rows { data: outside, base: 0, width: strip.width };
        strip.activate(&wide, incoming, &pre[0].enter[0], &mut s.activated);
        self.blocks(strip, pre, &self.levels[i], Some(incoming), out, s);
    }

    /// The blocks on the way down, the input of the first activated in `s.activated` and, unless it is `incoming`, in
    /// `s.x`.
    fn blocks(
        &self,
        strip: &Strip<'_>,
        blocks: &[Block],
        level: &Level,
        incoming: Option<Rows<'_>>,
        out: RowsMut<'_>,
        s: &mut Scratch,
    ) {
        let width = strip.width;
        let mut out = Some(out);
        for (k, block) in blocks.iter().enumerate() {
            let halo = 2 * (blocks.len() - k) as u32;
            let (wide, inner) = (strip.range(halo), strip.range(halo - 1));
            let activated = [rows(&s.activated, &wide, width)];
            strip.first_half(block, halo - 1, &activated, &mut s.hidden, &mut s.winograd);
            let hidden = [rows(&s.hidden, &inner, width)];
            // The sums of the first layer lie where those of the widest strip start.
            let x_base = strip.range(2 * blocks.len() as u32);
            let last = k + 1 == blocks.len();
            let mut epilogue = Epilogue::default();
            let incoming = incoming.filter(|_| k == 0);
            match out.take_if(|_| last) {
                Some(out) => {
                    epilogue.residual = incoming.or_else(|| Some(rows(&s.x, &x_base, width)));
                    match level.descent {
                        Some(_) => epilogue.raw = Some(out),
                        None => epilogue.activated = Some((&level.leave, out)),
                    }
                }
                None => {
                    epilogue.add = incoming.is_none();
                    epilogue.residual = incoming;
                    epilogue.raw = Some(rows_mut(&mut s.x, &x_base, width));
                    let narrow = strip.range(halo - 2);
                    let next = &blocks[k + 1].enter[0];
                    epilogue.activated = Some((next, rows_mut(&mut s.activated, &narrow, width)));
                }
            }
            strip.convolve(&block.conv2, halo - 2, &hidden, epilogue, &mut s.winograd);
        }
    }

    /// The strided convolution from level `i` onto the next.
    fn go_down(
        &self,
        i: usize,
        descent: &Descent,
        fine: &SiteSet,
        x: Rows<'_>,
        coarser: &mut LevelMemory,
        scratch: &[Mutex<Scratch>],
    ) {
        let LevelMemory { sites, strips, outside, .. } = coarser;
        let width = self.levels[i + 1].width;
        let out = &mut outside[..sites.len() * width];
        split(Split { starts: &strips.starts, width, smallest: 1 }, out, &|strip, starts, out| {
            let _span = tracing::trace_span!("stride", level = i, strip).entered();
            let rows = strips.widened(strip, 0);
            let end = (2 * rows.end).min(sites.size().height);
            with_scratch(scratch, |s| {
                for row in (2 * rows.start..end).step_by(DOWN_ROWS as usize) {
                    let coarse_rows = row..(row + DOWN_ROWS).min(end);
                    let read = fine_rows(fine, &coarse_rows);
                    activate(self.set, &read, x, &descent.down.enter, &mut s.activated);
                    let first = sites.before_row(coarse_rows.start);
                    let pixels = &sites.pixels()[first as usize..sites.before_row(coarse_rows.end) as usize];
                    let source = Rows { data: &s.activated, base: read.start as u32, width: x.width };
                    let out = RowsMut { data: &mut *out, base: starts[0], width };
                    let epilogue = Epilogue { raw: Some(out), ..Epilogue::default() };
                    let layer = &descent.down.conv;
                    dispatch(self.set, Down { layer, first, pixels, fine, source, epilogue });
                }
            });
        });
    }

    /// The way back up at a level: transposed convolution, blocks over its result beside `x`, and at the finest level the
    /// classifier.
    #[allow(clippy::too_many_arguments, reason = "one for each thing that a level reads and writes")]
    fn ascend(
        &self,
        strip: &Strip<'_>,
        i: usize,
        descent: &Descent,
        x: Rows<'_>,
        (coarse, below): (&SiteSet, Rows<'_>),
        out: RowsMut<'_>,
        s: &mut Scratch,
    ) {
        let (width, post) = (strip.width, &descent.post);
        let halo = 2 * post.len() as u32;
        let (wide, narrow) = (strip.range(halo), strip.range(halo - 2));
        let (activated_x, activated_u) = s.activated.split_at_mut(wide.len() * width);
        let epilogue = Epilogue {
            raw: Some(rows_mut(&mut s.skip, &wide, width)),
            activated: Some((&post[0].enter[1], rows_mut(activated_u, &wide, width))),
            ..Epilogue::default()
        };
        let patches = strip.patches.rows(strip.strips.widened(strip.strip, halo));
        dispatch(self.set, Up { layer: &descent.up, patches, coarse, source: below, epilogue });
        strip.activate(&wide, x, &post[0].enter[0], activated_x);

        let concat = [rows(activated_x, &wide, width), rows(activated_u, &wide, width)];
        strip.first_half(&post[0], halo - 1, &concat, &mut s.hidden, &mut s.winograd);
        let layer = post[0].projection.as_ref().expect("two sources become one");
        let sources = [x, rows(&s.skip, &wide, width)];
        let epilogue = Epilogue { raw: Some(rows_mut(&mut s.x, &narrow, width)), ..Epilogue::default() };
        let (first, count) = (narrow.start as u32, narrow.len());
        dispatch(self.set, Pointwise { layer, first, count, sources: &sources, epilogue });

        let leave = &self.levels[i].leave;
        let mut out = Some(out);
        for (k, block) in post.iter().enumerate() {
            let halo = 2 * (post.len() - k) as u32;
            let inner = strip.range(halo - 1);
            if k > 0 {
                let activated = [rows(&s.activated, &strip.range(halo), width)];
                strip.first_half(block, halo - 1, &activated, &mut s.hidden, &mut s.winograd);
            }
            let hidden = [rows(&s.hidden, &inner, width)];
            let target = strip.range(halo - 2);
            let mut epilogue = Epilogue::default();
            if let Some(next) = post.get(k + 1) {
                epilogue.raw = Some(rows_mut(&mut s.x, &narrow, width));
                epilogue.add = true;
                epilogue.activated = Some((&next.enter[0], rows_mut(&mut s.activated, &target, width)));
            } else {
                epilogue.residual = Some(rows(&s.x, &narrow, width));
                epilogue.activated = Some(match out.take_if(|_| i > 0) {
                    Some(out) => (leave, out),
                    None => (leave, rows_mut(&mut s.skip, &target, width)),
                });
            }
            strip.convolve(&block.conv2, halo - 2, &hidden, epilogue, &mut s.winograd);
        }
        if let Some(out) = out {
            let target = strip.range(0);
            let (first, count) = (target.start as u32, target.len());
            let sources = [rows(&s.skip, &target, width)];
            let bias = Some(&self.classifier_bias[..]);
            let epilogue = Epilogue { bias, raw: Some(out), ..Epilogue::default() };
            let layer = &self.classifier;
            dispatch(self.set, Pointwise { layer, first, count, sources: &sources, epilogue });
        }
    }

    /// The classifier of a network of one level.
    fn classify_only(&self, sites: &SiteSet, levels: &[LevelMemory], logits: &mut [Lanes]) {
        let width = self.levels[0].width;
        let raw = RowsMut { data: logits, base: 0, width: self.logit_width() };
        let bias = Some(&self.classifier_bias[..]);
        let epilogue = Epilogue { bias, raw: Some(raw), ..Epilogue::default() };
        let sources = [Rows { data: &levels[0].x, base: 0, width }];
        let layer = &self.classifier;
        dispatch(self.set, Pointwise { layer, first: 0, count: sites.len(), sources: &sources, epilogue });
    }
}

fn blocks_after_concat(weights: &[crate::bundle::refiner::Residual], channels: usize) -> Vec<Block> {
    let parts = |k: usize| if k == 0 { vec![channels; 2] } else { vec![channels] };
    weights.iter().enumerate().map(|(k, block)| Block::new(block, &parts(k))).collect()
}

/// The fine sites that coarse rows read.
fn fine_rows(fine: &SiteSet, coarse: &Range<u32>) -> Range<usize> {
    let Size { height, .. } = fine.size();
    let end = (2 * coarse.end + 1).min(height);
    fine.before_row((2 * coarse.start).min(height)) as usize..fine.before_row(end) as usize
}
