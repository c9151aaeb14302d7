//! The configured pipeline: one thread loads, warms up, then gathers and publishes results; workers compute; one
//! compresses. The node's thread only leaves frames in the mailboxes.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use r2r::Clock;

use super::NodeError;
use super::camera::{Camera, lock};
use super::outputs::{Allowed, CameraOutputs, Extra, Publish, RunFacts, ToCompress, compress};
use super::parameters::{Live, Settings};
use super::received::Received;
use crate::bundle::Bundle;
use crate::config::Config;
use crate::pipeline::{Admission, Backend, CloseOnDrop, Extras, Mailboxes, Outcome, RunError, Wanted, serve};
use crate::plan::Plan;
use crate::start::{Started, start};
use crate::types::{BackendFacts, CameraId, ClassInfo};

/// Part of the capacity that a warm-up frame refines.
const WARM_UP_SHARE: u32 = 64;
/// How long a stopping node waits for the frames in flight. Longer than any frame takes, shorter than systemd's patience.
const STOP_LIMIT: Duration = Duration::from_secs(15);

/// What the engine says of itself.
pub(super) enum Event {
    /// The bundle and the backend are there.
    Loaded(Facts),
    /// Every slot has run a frame.
    Ready,
    /// It is over: because it was stopped, or why else.
    Ended(Result<(), NodeError>),
}

/// What is known once the bundle is loaded.
#[derive(Clone)]
pub(super) struct Facts {
    pub(super) model: String,
    pub(super) classes: Vec<ClassInfo>,
    pub(super) backend: BackendFacts,
}

/// A handle to the threads; dropping it stops them.
pub(super) struct Engine {
    pub(super) cameras: Arc<[Camera]>,
    pub(super) mailboxes: Arc<Mailboxes<Received>>,
    pub(super) live: Arc<Mutex<Live>>,
    pub(super) events: Receiver<Event>,
    thread: Option<JoinHandle<()>>,
}

impl Engine {
    /// Begins to load; the events tell how it goes. `log` gets what must not stop the stream.
    pub(super) fn spawn(
        settings: Settings,
        outputs: Vec<CameraOutputs>,
        clock: Arc<Mutex<Clock>>,
        log: impl Fn(String) + Send + Clone + 'static,
    ) -> std::io::Result<Self> {
        let cameras: Arc<[Camera]> = settings.cameras.iter().map(|name| Camera::new(name)).collect();
        let mailboxes = Arc::new(Mailboxes::new(cameras.len(), Admission::Newest));
        let live = Arc::new(Mutex::new(settings.live));
        let (sender, events) = channel();
        let shared = (cameras.clone(), mailboxes.clone(), live.clone());
        let thread = std::thread::Builder::new().name("engine".to_owned()).spawn(move || {
            let (cameras, mailboxes, live) = shared;
            let thread =
                EngineThread { settings, cameras, mailboxes, live, outputs, clock, sender: sender.clone() };
            let ended = thread.run(log);
            // Nobody listens when the node is going down.
            let _ = sender.send(Event::Ended(ended));
        })?;
        Ok(Self { cameras, mailboxes, live, events, thread: Some(thread) })
    }

    /// Frames received that are neither labelled nor counted as lost.
    pub(super) fn in_flight(&self) -> u64 {
        let of_one = |(index, camera): (usize, &Camera)| {
            // Done before received, so that a frame in between is counted too often and not too seldom.
            let done = camera.labelled.load(Relaxed)
                + camera.rejected.load(Relaxed)
                + self.mailboxes.overwritten(CameraId(index as u16));
            camera.received.load(Relaxed).saturating_sub(done)
        };
        self.cameras.iter().enumerate().map(of_one).sum()
    }

    /// Stops the threads. False if a frame in flight did not come back: then they are left to the end of the process.
    pub(super) fn stop(mut self) -> bool {
        self.mailboxes.close();
        let limit = Instant::now() + STOP_LIMIT;
        while !self.is_gone() {
            if Instant::now() > limit {
                self.thread = None;
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        true
    }

    /// Whether its thread died without a word.
    pub(super) fn is_gone(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.mailboxes.close();
        if let Some(thread) = self.thread.take() {
            // A panic was reported by the event that never came.
            let _ = thread.join();
        }
    }
}

struct EngineThread {
    settings: Settings,
    cameras: Arc<[Camera]>,
    mailboxes: Arc<Mailboxes<Received>>,
    live: Arc<Mutex<Live>>,
    outputs: Vec<CameraOutputs>,
    clock: Arc<Mutex<Clock>>,
    sender: Sender<Event>,
}

impl EngineThread {
    fn run(self, log: impl Fn(String) + Send + Clone) -> Result<(), NodeError> {
        let folder = bundle_folder(&self.settings.model)?;
        let bundle = Bundle::load(&folder)?;
        // Without the live alpha: what the bundle says is needed when the parameter goes back to it.
        let config = Config { alpha: None, ..self.settings.config };
        let plan = Plan::new(&config, &bundle)?;
        let (classes, bundle_alpha, planned) = (plan.classes.clone(), plan.alpha, plan.clone());
        let (started, backend) = start(plan, config.backend)?;
        let model = bundle.manifest.name;
        let facts = Facts { model: model.clone(), classes: classes.clone(), backend: backend.clone() };
        let _ = self.sender.send(Event::Loaded(facts));
        let run_facts = RunFacts { model, backend };
        let to_compress = Mailboxes::<ToCompress>::new(self.cameras.len(), Admission::Newest);
        let publish = Publish {
            cameras: &self.cameras,
            outputs: &self.outputs,
            mailboxes: &self.mailboxes,
            to_compress: &to_compress,
            clock: self.clock.clone(),
            facts: &run_facts,
            palette: Publish::palette(&classes),
            highest_entropy: planned.highest_measure(),
            cdr: Vec::new(),
            pixels: Vec::new(),
        };
        let to_warm = self.cameras.len();
        for camera in 0..to_warm {
            let camera = CameraId(camera as u16);
            // Refused if the node is going down already, which `serve` notices too.
            let _ = self.mailboxes.put(camera, Received::warm_up(camera, self.settings.warm_up_size));
        }
        std::thread::scope(|scope| {
            let outputs = self.outputs.clone();
            let compress_log = log.clone();
            let to_compress = &to_compress;
            scope.spawn(move || compress(to_compress, outputs, compress_log));
            // Also when a worker panics: the thread that compresses would wait for ever, and this one for it.
            let _close = CloseOnDrop(to_compress);
            match started {
                Started::Cpu(backend) => self.serve(&*backend, &planned, bundle_alpha, publish, to_warm, log),
                Started::CpuTiles(backend) => {
                    self.serve(&*backend, &planned, bundle_alpha, publish, to_warm, log)
                }
                Started::Cuda(backend) => {
                    self.serve(&*backend, &planned, bundle_alpha, publish, to_warm, log)
                }
                Started::CudaTiles(backend) => {
                    self.serve(&*backend, &planned, bundle_alpha, publish, to_warm, log)
                }
            }
        })
    }

    fn serve<B: Backend>(
        &self,
        backend: &B,
        plan: &Plan,
        bundle_alpha: f32,
        mut publish: Publish<'_>,
        to_warm: usize,
        log: impl Fn(String),
    ) -> Result<(), NodeError> {
        #[cfg(feature = "fault-injection")]
        let backend = &crate::pipeline::faults::Faulty::from_environment(backend);
        let (live, cameras) = (&self.live, &self.cameras);
        // Noise is unsure everywhere: refining a little of it warms up what refining all of it would.
        let cold = AtomicUsize::new(to_warm);
        let wanted = |camera: CameraId, size| {
            let live = *lock(live);
            backend.set_alpha(live.alpha.unwrap_or(bundle_alpha));
            let extras = cameras[usize::from(camera.0)].wanted.load(Relaxed);
            let capacity = plan.capacity(size);
            Wanted {
                capacity: if cold.load(Relaxed) > 0 { capacity / WARM_UP_SHARE } else { capacity },
                extras: Extras {
                    coarse: false,
                    entropy: Extra::Entropy.is_in(extras),
                    refined: Extra::RefinedMask.is_in(extras),
                },
                budget_ms: live.time_budget_ms,
            }
        };
        let sink = |outcome: Outcome<'_, Received>| -> Result<(), NodeError> {
            if outcome.payload.warm_up {
                outcome
                    .result
                    .map_err(|error| NodeError::Model(format!("the warm-up frame failed: {error}")))?;
                if cold.fetch_sub(1, Relaxed) == 1 {
                    let _ = self.sender.send(Event::Ready);
                }
                return Ok(());
            }
            let camera = &self.cameras[usize::from(outcome.camera.0)];
            match &outcome.result {
                Err(error) => camera.reject(error),
                Ok(report) => {
                    let live = *lock(&self.live);
                    let allowed =
                        Allowed { processing_ms: live.max_processing_ms, budget_ms: live.time_budget_ms };
                    if let Err(error) = publish.frame(&outcome, report, allowed) {
                        log(format!("cannot publish for camera {}: {error}", camera.name));
                    }
                }
            }
            Ok(())
        };
        let slots = self.settings.config.slots.unwrap_or(1);
        serve(backend, &self.mailboxes, slots, plan.mode, wanted, sink).map_err(|error| match error {
            RunError::Device(error) => NodeError::Device(error.to_string()),
            RunError::Sink(error) => error,
        })
    }
}

/// Folder of a bundle: a path, or the name of one that was installed with the node or lies in the working directory.
fn bundle_folder(model: &str) -> Result<PathBuf, NodeError> {
    if model.contains('/') {
        return Ok(PathBuf::from(model));
    }
    // PREFIX/lib/sparse_refine/sparse_refine_node -> PREFIX/share/sparse_refine
    let installed = std::env::current_exe()
        .ok()
        .and_then(|program| Some(program.parent()?.parent()?.parent()?.join("share/sparse_refine/engines")));
    let places: Vec<PathBuf> =
        installed.into_iter().chain([PathBuf::from("engines")]).map(|folder| folder.join(model)).collect();
    places.iter().find(|folder| folder.join("model.toml").is_file()).cloned().ok_or_else(|| {
        let places: Vec<String> = places.iter().map(|place: &PathBuf| show(place)).collect();
        NodeError::Model(format!(
            "there is no model bundle `{model}`: looked in {}; set the parameter model to a folder with model.toml",
            places.join(" and ")
        ))
    })
}

fn show(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_looked_up_and_a_path_is_taken() {
        assert_eq!(bundle_folder("some/where").unwrap(), Path::new("some/where"));
        let error = bundle_folder("no_such_bundle").unwrap_err();
        assert_eq!(error.exit_code(), 3);
        assert!(error.to_string().contains("share/sparse_refine/engines/no_such_bundle"), "{error}");
    }
}
