//! After warm-up a frame allocates nothing in the pipeline's own stages. The ONNX engine, which allocates as it likes,
//! is left out.

#![allow(unsafe_code, reason = "a global allocator is an unsafe trait; this one counts and hands on")]
#![allow(clippy::unwrap_used, reason = "the functions that tests share may panic as tests do")]

mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};

use sparse_refine::bundle::Bundle;
use sparse_refine::config::{BackendChoice, Config};
use sparse_refine::cpu::resize::AreaResize;
use sparse_refine::pipeline::PixelBudget;
use sparse_refine::pipeline::{Backend as _, Extras, FrameOutputs};
use sparse_refine::plan::Plan;
use sparse_refine::start::{Started, start};
use sparse_refine::types::{CameraId, Frame, PixelFormat, Size, Stamp};
use support::TinyBundle;
use support::recording::scene;

struct Counting;

static ARMED: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicUsize = AtomicUsize::new(0);
static LARGEST_BYTES: AtomicUsize = AtomicUsize::new(0);

fn count(bytes: usize) {
    if ARMED.load(SeqCst) {
        ALLOCATIONS.fetch_add(1, SeqCst);
        LARGEST_BYTES.fetch_max(bytes, SeqCst);
    }
}

// SAFETY: every call goes to the system's allocator unchanged; counting touches atomics only.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size());
        // SAFETY: the caller's promises are those of this call.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size);
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const SIZE: Size = Size::new(160, 120);
const WARM_UP: usize = 4;
const ROUNDS: usize = 16;
const SCENES: usize = 3;
/// Jobs that the stages of a frame hand to the thread pool, the segmenter's two among them.
const JOBS: usize = 7;
/// Rayon queues jobs from outside in blocks of this many, and allocates each block.
const JOBS_PER_BLOCK: usize = 63;
/// Such a block is 1520 bytes; the smallest buffer of a frame is larger.
const BLOCK_BYTES: usize = 1520;

/// Allocations of a stage over all measured calls.
#[derive(Default)]
struct Tally {
    calls: usize,
    allocations: usize,
    largest_bytes: usize,
}

impl Tally {
    fn measure<R>(&mut self, warm: bool, stage: impl FnOnce() -> R) -> R {
        ALLOCATIONS.store(0, SeqCst);
        LARGEST_BYTES.store(0, SeqCst);
        ARMED.store(true, SeqCst);
        let result = stage();
        ARMED.store(false, SeqCst);
        if warm {
            self.calls += 1;
            self.allocations += ALLOCATIONS.load(SeqCst);
            self.largest_bytes = self.largest_bytes.max(LARGEST_BYTES.load(SeqCst));
        }
        result
    }
}

#[test]
fn no_stage_allocates_after_warm_up() {
    let dir = tempfile::tempdir().unwrap();
    TinyBundle::write(dir.path());
    for threads in [1, 2] {
        let config = Config { threads: Some(threads), ..Config::default() };
        let plan = Plan::new(&config, &Bundle::load(dir.path()).unwrap()).unwrap();
        let (Started::Cpu(backend), _) = start(plan.clone(), BackendChoice::Cpu).unwrap() else {
            panic!("the CPU was asked for")
        };
        let mut slot = backend.slot(SIZE).unwrap();
        let resize = AreaResize::new(&plan.geometry(SIZE).unwrap(), plan.segmenter.normalisation);
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let mut input = vec![0.0; 3 * plan.segmenter.tensors.size.pixels()];
        let mut outputs = FrameOutputs::default();
        let scenes: Vec<Vec<u8>> = (0..SCENES).map(|n| scene(SIZE, n as u32 * 7)).collect();
        // A thread makes its row of sums when it gets its first row, which beside a busy core may be after the warm-up.
        pool.broadcast(|_| resize.run(&scenes[0], &mut vec![0.0; input.len()]));
        let budget = PixelBudget(plan.capacity(SIZE) / 2);
        let names = ["upload", "preprocess", "select", "refine", "fuse", "finish"];
        let mut tallies: [Tally; 6] = Default::default();
        let extras = Extras { coarse: true, entropy: true, refined: true };
        for round in 0..WARM_UP + ROUNDS {
            let warm = round >= WARM_UP;
            for data in &scenes {
                let frame = Frame {
                    camera: CameraId(0),
                    stamp: Stamp::default(),
                    size: SIZE,
                    format: PixelFormat::Rgb8,
                    step: SIZE.width as usize * 3,
                    data,
                };
                let [upload, preprocess, select, refine, fuse, finish] = &mut tallies;
                upload.measure(warm, || backend.upload(&mut slot, &frame)).unwrap();
                preprocess.measure(warm, || pool.install(|| resize.run(data, &mut input)));
                backend.segment(&mut slot).unwrap();
                select.measure(warm, || backend.select(&mut slot, budget)).unwrap();
                refine.measure(warm, || backend.refine(&mut slot)).unwrap();
                fuse.measure(warm, || backend.fuse(&mut slot)).unwrap();
                let report =
                    finish.measure(warm, || backend.finish(&mut slot, extras, &mut outputs)).unwrap();
                assert!(report.pixels_refined > 0 && report.pixels_dropped > 0);
            }
        }
        for (name, tally) in names.iter().zip(&tallies) {
            let Tally { calls, allocations, largest_bytes } = *tally;
            println!(
                "{threads} threads, {name}: {allocations} in {calls} frames, largest {largest_bytes} bytes"
            );
        }
        let jobs = JOBS * ROUNDS * SCENES;
        let allocations: usize = tallies.iter().map(|tally| tally.allocations).sum();
        assert!(allocations <= jobs.div_ceil(JOBS_PER_BLOCK), "{allocations} allocations for {jobs} jobs");
        assert!(
            tallies.iter().all(|tally| tally.largest_bytes <= BLOCK_BYTES),
            "a buffer, not a queue's block"
        );
    }
}
