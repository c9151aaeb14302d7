//! The method `spatial_sparsity` around columns that run on the device, as TensorRT's do: stand-ins that take exactly
//! the shapes that engines are built for.
#![allow(unsafe_code, reason = "copies between device addresses and the host")]

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use cudarc::driver::{result, sys};
use sparse_refine::bundle::sparsity::Configuration;
use sparse_refine::config::OnnxEngine;
use sparse_refine::cpu::tiles::TileBackend;
use sparse_refine::cuda::{
    Column, ColumnEngine, CudaTileBackend, Device, SegmentError, StreamHandle, TensorAt,
};
use sparse_refine::onnx::{Network, NetworkFile};
use sparse_refine::pipeline::{Backend as _, PixelBudget, StageError, process};
use sparse_refine::plan::Plan;
use sparse_refine::tensorrt::networks;
use sparse_refine::types::{Mode, PixelFormat, Size};

use crate::cases::Noise;
use crate::support::fixtures::columns::Columns;
use crate::tiles::{SCTF, plan};
use crate::{different_labels, frame, labelled};

/// What one run was called with.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    column: usize,
    stream: usize,
    image: [usize; 4],
    addresses: Vec<u64>,
}

type Calls = Arc<Mutex<Vec<Call>>>;

/// A network on the host that can be run on the shapes of its file only, all inputs of the same run.
struct StandIn {
    network: Arc<Network>,
    runs: Vec<Vec<[usize; 4]>>,
    columns: Mutex<usize>,
    calls: Calls,
    /// The call that fails, and whether with the device.
    fails: Option<(usize, bool)>,
}

impl StandIn {
    fn new(file: &NetworkFile, fails: Option<(usize, bool)>) -> Self {
        let network = Network::load(&file.path, &file.inputs, &file.outputs, OnnxEngine::Rten, 1).unwrap();
        let count = file.inputs[0].shapes.len();
        Self {
            network: Arc::new(network),
            runs: (0..count).map(|run| file.inputs.iter().map(|port| port.shapes[run]).collect()).collect(),
            columns: Mutex::new(0),
            calls: Calls::default(),
            fails,
        }
    }
}

impl ColumnEngine for StandIn {
    fn name(&self) -> String {
        "a stand-in".to_owned()
    }

    fn workspace_bytes(&self) -> usize {
        0
    }

    fn accepts(&self, inputs: &[[usize; 4]]) -> bool {
        self.runs.iter().any(|run| run == inputs)
    }

    fn column(&self, _: &[usize], _: &[usize]) -> Result<Box<dyn Column>, SegmentError> {
        let mut columns = self.columns.lock().unwrap();
        *columns += 1;
        let (network, runs, calls) = (self.network.clone(), self.runs.clone(), self.calls.clone());
        Ok(Box::new(OneFrame { id: *columns, network, runs, calls, fails: self.fails }))
    }
}

struct OneFrame {
    id: usize,
    network: Arc<Network>,
    runs: Vec<Vec<[usize; 4]>>,
    calls: Calls,
    fails: Option<(usize, bool)>,
}

impl Column for OneFrame {
    unsafe fn enqueue(
        &mut self,
        inputs: &[TensorAt],
        outputs: &[TensorAt],
        stream: StreamHandle,
    ) -> Result<(), SegmentError> {
        let shapes: Vec<_> = inputs.iter().map(|input| input.shape).collect();
        assert!(self.runs.contains(&shapes), "no engine has a profile for {shapes:?}");
        let calls = {
            let mut calls = self.calls.lock().unwrap();
            let addresses = inputs.iter().chain(outputs).map(|tensor| tensor.address).collect();
            calls.push(Call { column: self.id, stream: stream as usize, image: shapes[0], addresses });
            calls.len()
        };
        match self.fails.filter(|(at, _)| *at == calls) {
            Some((_, true)) => return Err(SegmentError::Device("gone".to_owned())),
            Some((_, false)) => return Err(SegmentError::Frame("not this one".to_owned())),
            None => {}
        }
        let stream: sys::CUstream = stream.cast();
        let values = inputs.iter().map(|input| {
            let mut values = vec![0.0_f32; input.shape.iter().product()];
            // SAFETY: the caller's promise; the copy, and what was enqueued before it, is waited for.
            unsafe {
                result::memcpy_dtoh_async(&mut values, input.address, stream).unwrap();
                result::stream::synchronize(stream).unwrap();
            }
            values
        });
        let values: Vec<_> = values.collect();
        let tensors: Vec<_> =
            inputs.iter().zip(&values).map(|(input, values)| (input.shape, &values[..])).collect();
        let mut results = vec![Vec::new(); outputs.len()];
        let mut wanted: Vec<_> =
            outputs.iter().zip(&mut results).map(|(output, result)| (output.shape, result)).collect();
        self.network.run(&tensors, &mut wanted).unwrap();
        for (output, values) in outputs.iter().zip(&results) {
            // SAFETY: the caller's promise; the copy is waited for.
            unsafe {
                result::memcpy_htod_async(output.address, values, stream).unwrap();
                result::stream::synchronize(stream).unwrap();
            }
        }
        Ok(())
    }
}

/// The backend of a plan on stand-ins for its engines, and the calls of the two columns.
fn backend(plan: &Plan, fails: Option<(usize, bool)>) -> (CudaTileBackend, [Calls; 2]) {
    let files = networks(plan).unwrap();
    let (coarse, fine) = (StandIn::new(&files[0], None), StandIn::new(&files[1], fails));
    let calls = [coarse.calls.clone(), fine.calls.clone()];
    let device = Arc::new(Device::open().unwrap());
    let backend = CudaTileBackend::with_engines(plan.clone(), device, Arc::new(coarse), Some(Arc::new(fine)));
    (backend.unwrap(), calls)
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn columns_are_run_on_the_shapes_of_their_engines_and_labels_equal_the_cpu() {
    let isctf = Columns { configuration: Configuration::Isctf, ..SCTF };
    let mut noise = Noise(21);
    for (seed, columns) in [(11, SCTF), (12, isctf)] {
        let (plan, _folder) = plan(seed, columns);
        let cpu = TileBackend::new(plan.clone()).unwrap();
        let (cuda, calls) = backend(&plan, None);
        assert_eq!(cuda.engine_name(), "a stand-in");
        // Two cameras, whose images are the size that the fine column was made for or padded to it.
        let sizes = [Size::new(150, 90), Size::new(160, 96)];
        let mut slots = sizes.map(|size| (cpu.slot(size).unwrap(), cuda.slot(size).unwrap()));
        for turn in 0..6 {
            let (size, (cpu_slot, cuda_slot)) = (sizes[turn % 2], &mut slots[turn % 2]);
            let data = noise.image(size, PixelFormat::Rgb8, size.width as usize * 3);
            let frame = frame(size, PixelFormat::Rgb8, size.width as usize * 3, &data);
            // Everything, so that the whole image is run; three tiles, in batches of four; one, in a batch of two.
            let (threshold, budget) = [(-1.0, u32::MAX), (0.0, 3 * 1024), (0.0, 1024)][turn / 2];
            cpu.set_alpha(threshold);
            cuda.set_alpha(threshold);
            let want = labelled(&cpu, cpu_slot, &frame, Mode::Refined, budget);
            let got = labelled(&cuda, cuda_slot, &frame, Mode::Refined, budget);
            assert!(want.0.pixels_refined > 0);
            let name = format!("plan {seed}, turn {turn}");
            assert_eq!(different_labels(&name, &want, &got), 0, "{name}: labels");
        }
        let [coarse, fine] = calls.map(|calls| calls.lock().unwrap().clone());
        assert_eq!(coarse.len(), 6);
        let shapes: BTreeSet<_> = fine.iter().map(|call| call.image).collect();
        let wanted = [[1, 3, 96, 160], [2, 3, 64, 64], [4, 3, 64, 64]];
        assert_eq!(shapes, BTreeSet::from(wanted), "every profile is used");
        for calls in [coarse, fine] {
            // A column, which is TensorRT's context, has one slot's addresses and stream and shares none of them.
            let owners: BTreeSet<_> = calls.iter().map(|call| (call.column, call.stream)).collect();
            assert_eq!(owners.len(), 2, "{owners:?}");
            let of = |owner: usize| -> BTreeSet<u64> {
                calls
                    .iter()
                    .filter(|call| call.column == owner)
                    .flat_map(|call| call.addresses.clone())
                    .collect()
            };
            assert!(of(1).is_disjoint(&of(2)));
        }
    }
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn a_camera_that_no_engine_was_built_for_is_refused_and_another_is_not() {
    let (plan, _folder) = plan(2, Columns { tile: 48, ..SCTF });
    let cpu = TileBackend::new(plan.clone()).unwrap();
    let (cuda, _) = backend(&plan, None);
    assert!(cuda.slot(Size::new(150, 90)).is_ok());
    let size = Size::new(80, 43);
    assert!(cpu.slot(size).is_ok(), "the networks themselves can");
    match cuda.slot(size) {
        Err(StageError::Frame(error)) => {
            let says = error.to_string();
            assert!(says.contains("at 80x43") && says.contains("use --backend cuda or cpu"), "{says}");
        }
        Err(error) => panic!("{error}"),
        Ok(_) => panic!("no engine takes its windows"),
    }
}

#[test]
#[ignore = "needs the emulated driver or a GPU: make test-cuda, make gpu-test"]
fn a_frame_that_a_column_refuses_is_an_outcome_and_a_lost_device_is_not() {
    let (plan, _folder) = plan(13, SCTF);
    let size = Size::new(160, 96);
    let cpu = TileBackend::new(plan.clone()).unwrap();
    cpu.set_alpha(0.0);
    for (at, device) in [(2, false), (2, true)] {
        let (cuda, _) = backend(&plan, Some((at, device)));
        cuda.set_alpha(0.0);
        let (mut cpu_slot, mut slot) = (cpu.slot(size).unwrap(), cuda.slot(size).unwrap());
        for call in 1..=3 {
            let data = Noise(call).image(size, PixelFormat::Rgb8, 480);
            let frame = frame(size, PixelFormat::Rgb8, 480, &data);
            // One tile, so that a frame is one run of the fine column.
            match (call, process(&cuda, &mut slot, &frame, Mode::Refined, PixelBudget(1024))) {
                (2, Err(StageError::Frame(error))) if !device => {
                    assert_eq!(error.reason(), "segmenter_failed");
                }
                (2, Err(StageError::DeviceLost { stage, why })) if device => {
                    assert!(stage == "refine" && why.contains("gone"), "{stage}: {why}");
                    break;
                }
                (1 | 3, Ok(())) => {
                    let mut outputs = Default::default();
                    cuda.finish(&mut slot, Default::default(), &mut outputs).unwrap();
                    let want = labelled(&cpu, &mut cpu_slot, &frame, Mode::Refined, 1024);
                    assert!(outputs.labels == want.1.labels, "frame {call}");
                }
                (call, result) => panic!("frame {call}: {result:?}"),
            }
        }
    }
}
