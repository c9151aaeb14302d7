//! Runs a stream of frames: one thread reads, each slot has a worker, the caller's thread gets the results in order.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, mpsc};
use std::time::Instant;

use super::{
    Admission, Backend, DeadlineBudget, Extras, FrameOutputs, Mailboxes, StageError, process_within,
};
use crate::types::{CameraId, Frame, FrameError, FrameReport, Mode, Size};

/// A message that holds a camera image, perhaps a damaged one.
pub trait Payload: Send {
    /// The image, or why there is none. Decoding of compressed images happens here, on the worker.
    fn with_frame<R>(&self, use_frame: impl FnOnce(Result<Frame<'_>, FrameError>) -> R) -> R;
}

/// How to run.
#[derive(Clone, Debug)]
pub struct RunSettings {
    /// Number of cameras; payloads come with a camera below it.
    pub cameras: usize,
    /// Frames in flight.
    pub slots: usize,
    /// What happens to a frame whose camera already has one waiting.
    pub admission: Admission,
    /// Coarse or refined. A dense run is a coarse run of another plan.
    pub mode: Mode,
    /// What is wanted beside the labels.
    pub extras: Extras,
    /// Time per frame, if it is bounded.
    pub budget_ms: Option<f64>,
}

/// One frame that went through, or did not.
pub struct Outcome<'a, T> {
    /// Camera it came from.
    pub camera: CameraId,
    /// The message it came in.
    pub payload: &'a T,
    /// What it cost, or why it was rejected.
    pub result: Result<FrameReport, FrameError>,
    /// Labels and extras; meaningless when rejected.
    pub outputs: &'a FrameOutputs,
    /// From the moment a slot took the frame to its labels, decoding included.
    pub latency_ms: f64,
}

/// Why a run ended before its source did.
#[derive(Debug, thiserror::Error)]
pub enum RunError<E> {
    /// The device is gone.
    #[error(transparent)]
    Device(StageError),
    /// The receiver of the results failed.
    #[error(transparent)]
    Sink(E),
}

struct Finished<T> {
    camera: CameraId,
    payload: T,
    result: Result<FrameReport, StageError>,
    outputs: FrameOutputs,
    latency_ms: f64,
}

/// What is wanted of one frame.
#[derive(Clone, Copy, Debug)]
pub struct Wanted {
    /// Most pixels to refine, whatever the time.
    pub capacity: u32,
    /// What is wanted beside the labels.
    pub extras: Extras,
    /// Time for the frame, if it is bounded.
    pub budget_ms: Option<f64>,
}

/// Feeds every payload of `source` to a slot and every outcome to `sink`, in the order of the source.
///
/// The capacity of a frame is `capacity(size)` pixels.
pub fn run<B, T, E>(
    backend: &B,
    settings: &RunSettings,
    capacity: impl Fn(Size) -> u32 + Sync,
    source: impl Iterator<Item = (CameraId, T)> + Send,
    sink: impl FnMut(Outcome<'_, T>) -> Result<(), E>,
) -> Result<(), RunError<E>>
where
    B: Backend,
    T: Payload,
{
    let RunSettings { extras, budget_ms, .. } = *settings;
    let mailboxes = &Mailboxes::new(settings.cameras, settings.admission);
    std::thread::scope(|scope| {
        scope.spawn(move || {
            let _close = CloseOnDrop(mailboxes);
            for (camera, payload) in source {
                if mailboxes.put(camera, payload).is_err() {
                    break;
                }
            }
        });
        let wanted = |_, size| Wanted { capacity: capacity(size), extras, budget_ms };
        serve(backend, mailboxes, settings.slots, settings.mode, wanted, sink)
    })
}

/// Feeds what is left in the mailboxes to `slots` slots, until they are closed and empty, and every outcome to `sink`, in
/// the order taken. Closes the mailboxes on every way out.
///
/// `wanted` is asked once a frame, when a slot has taken it. Buffers are bounded: one set of outputs a slot goes
/// round, live two more, and a worker takes one before it takes a frame, so a slow sink holds the source back instead of
/// filling memory. Live, the spare sets let slots go on while results are published; in a replay there are none, so that
/// with one slot nothing else runs, and disturbs the timing, while a frame is scored.
pub fn serve<B, T, E>(
    backend: &B,
    mailboxes: &Mailboxes<T>,
    slots: usize,
    mode: Mode,
    wanted: impl Fn(CameraId, Size) -> Wanted + Sync,
    mut sink: impl FnMut(Outcome<'_, T>) -> Result<(), E>,
) -> Result<(), RunError<E>>
where
    B: Backend,
    T: Payload,
{
    let slots = slots.max(1);
    let sets = match mailboxes.admission() {
        Admission::Every => slots,
        Admission::Newest => slots + 2,
    };
    let (free_sender, free) = mpsc::sync_channel(sets);
    for _ in 0..sets {
        free_sender.send(FrameOutputs::default()).expect("the channel holds them all");
    }
    // Taking buffer, frame and index under one lock makes the index the order of the source.
    let intake = Mutex::new((free, 0u64));
    let (done_sender, done) = mpsc::sync_channel::<(u64, Finished<T>)>(sets);
    let budget = Mutex::new(DeadlineBudget::new(None));

    std::thread::scope(|scope| {
        // Owned here: a return drops it, and no worker waits for a buffer that nobody will give back.
        let free_sender = free_sender;
        let (intake, budget, wanted) = (&intake, &budget, &wanted);
        for _ in 0..slots {
            let done = done_sender.clone();
            scope.spawn(move || {
                let _close = CloseOnDrop(mailboxes);
                let sizes = mailboxes.cameras().max(1);
                let mut worker = Worker { backend, mode, budget, wanted, sizes, slots: Vec::new() };
                loop {
                    let mut intake = intake.lock().unwrap_or_else(PoisonError::into_inner);
                    let Ok(outputs) = intake.0.recv() else { break };
                    let Some((camera, payload)) = mailboxes.take() else { break };
                    let index = intake.1;
                    intake.1 += 1;
                    drop(intake);
                    if done.send((index, worker.frame(camera, payload, outputs))).is_err() {
                        break;
                    }
                }
            });
        }
        drop(done_sender);

        let _close = CloseOnDrop(mailboxes);
        let mut early = BTreeMap::new();
        let mut next = 0u64;
        for (index, finished) in done {
            early.insert(index, finished);
            while let Some(finished) = early.remove(&next) {
                next += 1;
                let Finished { camera, payload, result, outputs, latency_ms } = finished;
                let result = match result {
                    Ok(report) => Ok(report),
                    Err(StageError::Frame(error)) => Err(error),
                    Err(lost) => return Err(RunError::Device(lost)),
                };
                sink(Outcome { camera, payload: &payload, result, outputs: &outputs, latency_ms })
                    .map_err(RunError::Sink)?;
                // No worker is left to take it only when all is over.
                let _ = free_sender.send(outputs);
            }
        }
        Ok(())
    })
}

/// Ends the run on every way out of a thread, a panic included, so that no other thread waits for ever.
pub(crate) struct CloseOnDrop<'a, T>(pub(crate) &'a Mailboxes<T>);

impl<T> Drop for CloseOnDrop<'_, T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

struct Worker<'a, B: Backend, W> {
    backend: &'a B,
    mode: Mode,
    budget: &'a Mutex<DeadlineBudget>,
    wanted: &'a W,
    /// Most slots to keep: a stream that keeps changing its size does not fill memory.
    sizes: usize,
    /// One per size seen, most recently used last.
    slots: Vec<(Size, B::Slot)>,
}

impl<B: Backend, W: Fn(CameraId, Size) -> Wanted> Worker<'_, B, W> {
    fn frame<T: Payload>(&mut self, camera: CameraId, payload: T, mut outputs: FrameOutputs) -> Finished<T> {
        let start = Instant::now();
        let result = payload.with_frame(|frame| self.process(start, &frame?, &mut outputs));
        let latency_ms = start.elapsed().as_secs_f64() * 1e3;
        Finished { camera, payload, result, outputs, latency_ms }
    }

    fn process(
        &mut self,
        start: Instant,
        frame: &Frame<'_>,
        outputs: &mut FrameOutputs,
    ) -> Result<FrameReport, StageError> {
        let _span = tracing::info_span!("frame", camera = frame.camera.0, stamp = %frame.stamp).entered();
        frame.check()?;
        let Wanted { capacity, extras, budget_ms } = (self.wanted)(frame.camera, frame.size);
        let (backend, mode, budget) = (self.backend, self.mode, self.budget);
        let slot = self.slot(frame.size)?;
        process_within(backend, slot, frame, mode, || {
            let mut budget = budget.lock().unwrap_or_else(PoisonError::into_inner);
            budget.set(budget_ms);
            budget.pixels(capacity, start.elapsed().as_secs_f64() * 1e3)
        })?;
        let report = backend.finish(slot, extras, outputs)?;
        budget.lock().unwrap_or_else(PoisonError::into_inner).observe(&report);
        Ok(report)
    }

    fn slot(&mut self, size: Size) -> Result<&mut B::Slot, StageError> {
        let slot = match self.slots.iter().position(|(held, _)| *held == size) {
            Some(place) => self.slots.remove(place),
            None => {
                if self.slots.len() >= self.sizes {
                    self.slots.remove(0);
                }
                (size, self.backend.slot(size)?)
            }
        };
        self.slots.push(slot);
        Ok(&mut self.slots.last_mut().expect("just pushed").1)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::*;
    use crate::pipeline::PixelBudget;
    use crate::types::{PixelFormat, Stamp};

    /// Labels an image with its first byte, slower for smaller bytes; byte 255 loses the device.
    #[derive(Default)]
    struct Echo {
        slots: AtomicUsize,
    }

    #[derive(Default)]
    struct EchoSlot {
        size: Size,
        byte: u8,
    }

    impl Backend for Echo {
        type Slot = EchoSlot;
        fn set_alpha(&self, _: f32) {}
        fn slot(&self, size: Size) -> Result<EchoSlot, StageError> {
            self.slots.fetch_add(1, Ordering::Relaxed);
            Ok(EchoSlot { size, byte: 0 })
        }
        fn upload(&self, slot: &mut EchoSlot, frame: &Frame<'_>) -> Result<(), StageError> {
            assert_eq!(slot.size, frame.size);
            slot.byte = frame.data[0];
            Ok(())
        }
        fn segment(&self, slot: &mut EchoSlot) -> Result<(), StageError> {
            std::thread::sleep(Duration::from_millis(u64::from(10 - (slot.byte % 10))));
            match slot.byte {
                255 => Err(StageError::DeviceLost { stage: "segment", why: "gone".into() }),
                _ => Ok(()),
            }
        }
        fn select(&self, _: &mut EchoSlot, _: PixelBudget) -> Result<(), StageError> {
            Ok(())
        }
        fn refine(&self, _: &mut EchoSlot) -> Result<(), StageError> {
            Ok(())
        }
        fn fuse(&self, _: &mut EchoSlot) -> Result<(), StageError> {
            Ok(())
        }
        fn finish(
            &self,
            slot: &mut EchoSlot,
            _: Extras,
            outputs: &mut FrameOutputs,
        ) -> Result<FrameReport, StageError> {
            outputs.labels.size = slot.size;
            outputs.labels.data.clear();
            outputs.labels.data.resize(slot.size.pixels(), slot.byte);
            Ok(FrameReport { size: slot.size, ..FrameReport::default() })
        }
    }

    struct Image(Size, Vec<u8>);

    impl Payload for Image {
        fn with_frame<R>(&self, use_frame: impl FnOnce(Result<Frame<'_>, FrameError>) -> R) -> R {
            use_frame(Ok(Frame {
                camera: CameraId(0),
                stamp: Stamp::default(),
                size: self.0,
                format: PixelFormat::Mono8,
                step: self.0.width as usize,
                data: &self.1,
            }))
        }
    }

    fn settings(slots: usize) -> RunSettings {
        RunSettings {
            cameras: 2,
            slots,
            admission: Admission::Every,
            mode: Mode::Refined,
            extras: Extras::default(),
            budget_ms: None,
        }
    }

    fn images(bytes: impl IntoIterator<Item = u8>) -> Vec<(CameraId, Image)> {
        let image = |(i, byte)| (CameraId((i % 2) as u16), Image(Size::new(2, 2), vec![byte; 4]));
        bytes.into_iter().enumerate().map(image).collect()
    }

    #[test]
    fn results_come_in_source_order_whatever_the_slots() {
        for slots in [1, 2, 8] {
            let mut seen = Vec::new();
            run(
                &Echo::default(),
                &settings(slots),
                |_| 1,
                images(0..50).into_iter(),
                |outcome| {
                    assert!(outcome.result.is_ok());
                    seen.push(outcome.outputs.labels.data[0]);
                    Ok::<_, ()>(())
                },
            )
            .unwrap();
            assert_eq!(seen, (0..50).collect::<Vec<_>>(), "{slots} slots");
        }
    }

    #[test]
    fn bad_frames_are_outcomes_and_lose_no_good_one() {
        let mut source = images([1, 2, 3, 4]);
        source[1].1.1.truncate(3);
        source[2].1.0 = Size::new(0, 2);
        let mut outcomes = Vec::new();
        run(
            &Echo::default(),
            &settings(2),
            |_| 1,
            source.into_iter(),
            |outcome| {
                outcomes.push(outcome.result.map(|_| outcome.outputs.labels.data[0]).map_err(|e| e.reason()));
                Ok::<_, ()>(())
            },
        )
        .unwrap();
        assert_eq!(outcomes, [Ok(1), Err("short_data"), Err("zero_size"), Ok(4)]);
    }

    #[test]
    fn a_size_change_gets_a_new_slot_and_old_ones_are_let_go() {
        let echo = Echo::default();
        let mut source = images([1; 6]);
        for (i, (_, image)) in source.iter_mut().enumerate() {
            *image = Image(Size::new(1 + i as u32 / 2, 1), vec![1; 4]);
        }
        let mut sizes = Vec::new();
        run(
            &echo,
            &settings(1),
            |_| 1,
            source.into_iter(),
            |outcome| {
                sizes.push(outcome.outputs.labels.size.width);
                Ok::<_, ()>(())
            },
        )
        .unwrap();
        assert_eq!(sizes, [1, 1, 2, 2, 3, 3]);
        assert_eq!(echo.slots.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_failing_sink_and_a_lost_device_end_the_run() {
        let mut count = 0;
        let failed = run(
            &Echo::default(),
            &settings(2),
            |_| 1,
            images(0..100).into_iter(),
            |_| {
                count += 1;
                if count == 3 { Err("full") } else { Ok(()) }
            },
        );
        assert!(matches!(failed, Err(RunError::Sink("full"))));
        let endless = std::iter::repeat_with(|| (CameraId(1), Image(Size::new(1, 1), vec![255])));
        let lost = run(&Echo::default(), &settings(8), |_| 1, endless, |_| Ok::<_, ()>(()));
        assert!(matches!(lost, Err(RunError::Device(_))));
    }
}
