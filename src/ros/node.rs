//! The node's thread: the only one that touches the r2r node, and one that never computes.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures::FutureExt;
use futures::future::BoxFuture;
use r2r::{Context, Node};

use super::NodeError;
use super::camera::lock;
use super::class_info::ClassInfoOutput;
use super::engine::{Engine, Event, Facts};
use super::inputs::Inputs;
use super::lifecycle::{State, Transition};
use super::names::remappings;
use super::notify::Notify;
use super::outputs::CameraOutputs;
use super::parameters::{Parameters, Settings};
use super::report::{Reporter, Sources};
use super::services::{ChangeRequest, LifecycleServices};

/// Longest time the thread waits for ROS: how late it may notice signals, its own engine, and timers.
const SPIN: Duration = Duration::from_millis(50);
/// How often it is looked up who subscribes to what.
const LOOK_FOR_SUBSCRIBERS: Duration = Duration::from_millis(100);

/// Runs the node until it is told to stop. The arguments are the process's.
pub fn run() -> Result<(), NodeError> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        // The second signal ends the process at once: whoever sends two does not want to wait.
        let registered = signal_hook::flag::register_conditional_shutdown(signal, 1, stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()));
        registered.map_err(|why| NodeError::Configuration(format!("cannot handle signals: {why}")))?;
    }
    // r2r panics where rcl refuses arguments, with rcl's own words.
    let context = std::panic::catch_unwind(Context::create)
        .map_err(|_| {
            NodeError::Configuration("ROS 2 refuses the arguments or a parameter file, see above".to_owned())
        })?
        .map_err(NodeError::ros("cannot start (is the log folder writable? HOME or ROS_LOG_DIR names it)"))?;
    let node = Node::create(context, "sparse_refine", "").map_err(NodeError::ros("cannot make the node"))?;
    let mut runtime = Runtime::new(node)?;
    let result = runtime.spin(&stop);
    // Stopped in any case; the first error is the one to tell.
    let stopped = runtime.stop();
    result.and(stopped)
}

/// A transition that is under way, and who waits for it.
struct Pending {
    transition: Transition,
    request: Option<ChangeRequest>,
}

/// What exists from configure to cleanup.
struct Configured {
    engine: Engine,
    outputs: Vec<CameraOutputs>,
    class_info: Vec<ClassInfoOutput>,
    facts: Option<Facts>,
    /// Frames done when last looked at, and when that number last changed.
    progress: (u64, Instant),
}

struct Runtime {
    node: Node,
    logger: String,
    parameters: Arc<Mutex<Parameters>>,
    parameter_services: BoxFuture<'static, ()>,
    settings: Settings,
    lifecycle: LifecycleServices,
    reporter: Reporter,
    notify: Notify,
    state: State,
    active_since: Instant,
    pending: Option<Pending>,
    configured: Option<Configured>,
    inputs: Option<Inputs>,
    /// Activate once configured, and end the process if that fails.
    starting: bool,
    trouble: Option<String>,
    looked: Instant,
}

impl Runtime {
    fn new(mut node: Node) -> Result<Self, NodeError> {
        Parameters::check_overrides(&lock(&node.params)).map_err(NodeError::Configuration)?;
        let parameters = Arc::new(Mutex::new(Parameters::new()));
        let (services, _events) = node
            .make_derived_parameter_handler(parameters.clone())
            .map_err(NodeError::ros("cannot offer parameters"))?;
        let settings = lock(&parameters).settings();
        let lifecycle =
            LifecycleServices::create(&mut node).map_err(NodeError::ros("cannot offer services"))?;
        let rules = remappings(std::env::args());
        let reporter =
            Reporter::create(&mut node, rules).map_err(NodeError::ros("cannot offer diagnostics"))?;
        Ok(Self {
            logger: node.logger().to_owned(),
            parameters,
            parameter_services: services.boxed(),
            starting: settings.autostart,
            settings,
            lifecycle,
            reporter,
            notify: Notify::from_environment(),
            state: State::Unconfigured,
            active_since: Instant::now(),
            pending: None,
            configured: None,
            inputs: None,
            trouble: None,
            looked: Instant::now(),
            node,
        })
    }

    fn spin(&mut self, stop: &AtomicBool) -> Result<(), NodeError> {
        if self.starting {
            self.begin(Transition::Configure, None)?;
        } else {
            self.notify.send("READY=1\nSTATUS=unconfigured");
        }
        while !stop.load(Relaxed) && self.state != State::Finalized {
            self.node.spin_once(SPIN);
            self.take_frames();
            // The parameter services never end; polling them answers what came in.
            let _ = (&mut self.parameter_services).now_or_never();
            if lock(&self.parameters).take_changed() {
                self.apply_live();
            }
            if let Some(request) =
                self.lifecycle.serve(self.state).map_err(NodeError::ros("lifecycle services"))?
            {
                self.requested(request)?;
            }
            self.engine_events()?;
            self.finish_deactivation()?;
            self.look_for_subscribers();
            self.report()?;
            self.sign_of_life();
        }
        Ok(())
    }

    fn take_frames(&mut self) {
        if let (Some(inputs), Some(configured)) = (&mut self.inputs, &self.configured) {
            for problem in inputs.take(&configured.engine) {
                r2r::log_warn!(&self.logger, "{problem}");
            }
        }
    }

    fn apply_live(&mut self) {
        let live = lock(&self.parameters).live();
        if let Some(configured) = &self.configured {
            *lock(&configured.engine.live) = live;
        }
    }

    fn requested(&mut self, request: ChangeRequest) -> Result<(), NodeError> {
        let wanted = &request.message.transition;
        match Transition::requested(wanted.id, &wanted.label, self.state) {
            Ok(transition) => self.begin(transition, Some(request)),
            Err(why) => {
                r2r::log_warn!(&self.logger, "{why}");
                respond(request, false)
            }
        }
    }

    /// Enters a transition. What takes time goes on in other threads; `finish` ends it.
    fn begin(&mut self, transition: Transition, request: Option<ChangeRequest>) -> Result<(), NodeError> {
        let (from, working, _) = transition.path();
        self.enter(transition.id(), transition.label(), from, working)?;
        self.pending = Some(Pending { transition, request });
        match transition {
            Transition::Configure => match self.configure() {
                Ok(()) => Ok(()),
                Err(error) => self.failed(error),
            },
            Transition::Activate => {
                let inputs = Inputs::subscribe(&mut self.node, &self.settings);
                self.inputs = Some(inputs.map_err(NodeError::ros("cannot subscribe"))?);
                self.active_since = Instant::now();
                self.finish(true)
            }
            Transition::Deactivate => {
                self.inputs = None;
                Ok(())
            }
            Transition::Cleanup
            | Transition::ShutdownUnconfigured
            | Transition::ShutdownInactive
            | Transition::ShutdownActive => {
                self.stop()?;
                self.finish(true)
            }
        }
    }

    fn configure(&mut self) -> Result<(), NodeError> {
        let mut parameters = lock(&self.parameters);
        parameters.configured = true;
        self.settings = parameters.settings();
        drop(parameters);
        let Settings { cameras, reliable_output, .. } = &self.settings;
        let (mut outputs, mut class_info) = (Vec::new(), Vec::new());
        for camera in cameras {
            let made = CameraOutputs::create(&mut self.node, camera, *reliable_output);
            outputs.push(made.map_err(NodeError::ros("cannot publish"))?);
            let made = ClassInfoOutput::create(&mut self.node, camera);
            class_info.push(made.map_err(NodeError::ros("cannot publish"))?);
        }
        let logger = self.logger.clone();
        let log = move |problem: String| r2r::log_error!(&logger, "{problem}");
        let engine = Engine::spawn(self.settings.clone(), outputs.clone(), self.node.get_ros_clock(), log)
            .map_err(|why| NodeError::Backend(format!("cannot start the engine's thread: {why}")))?;
        self.reporter.reset();
        self.configured =
            Some(Configured { engine, outputs, class_info, facts: None, progress: (0, Instant::now()) });
        Ok(())
    }

    fn engine_events(&mut self) -> Result<(), NodeError> {
        let Some(configured) = &mut self.configured else { return Ok(()) };
        let gone = configured.engine.is_gone();
        match configured.engine.events.try_recv() {
            Ok(Event::Loaded(facts)) => {
                for outputs in &configured.class_info {
                    outputs.publish(&facts.classes).map_err(NodeError::ros("cannot publish classes"))?;
                }
                let backend = &facts.backend;
                r2r::log_info!(
                    &self.logger,
                    "model {}, segmenter on {}, refiner on {}, {} ({})",
                    facts.model,
                    backend.segmenter,
                    backend.refiner,
                    backend.device,
                    backend.reason
                );
                configured.facts = Some(facts);
                Ok(())
            }
            Ok(Event::Ready) => self.finish(true),
            Ok(Event::Ended(Ok(()))) => Err(NodeError::Device("the engine ended unasked".to_owned())),
            Ok(Event::Ended(Err(error))) => self.failed(error),
            Err(_) if gone => Err(NodeError::Device("a thread of the engine died, see above".to_owned())),
            Err(_) => Ok(()),
        }
    }

    /// A failure while configuring leaves an unconfigured node to whoever configures it; all others end the process.
    fn failed(&mut self, error: NodeError) -> Result<(), NodeError> {
        if self.starting || self.state != State::Configuring || matches!(error, NodeError::Device(_)) {
            return Err(error);
        }
        r2r::log_error!(&self.logger, "cannot configure: {error}");
        self.trouble = Some(error.to_string());
        self.stop()?;
        self.finish(false)
    }

    fn finish_deactivation(&mut self) -> Result<(), NodeError> {
        let idle = self.configured.as_ref().is_none_or(|configured| configured.engine.in_flight() == 0);
        if self.state == State::Deactivating && idle { self.finish(true) } else { Ok(()) }
    }

    /// Ends the pending transition and answers who asked for it.
    fn finish(&mut self, success: bool) -> Result<(), NodeError> {
        let Some(Pending { transition, request }) = self.pending.take() else { return Ok(()) };
        let (from, working, to) = transition.path();
        let (label, next) = if success { ("transition_success", to) } else { ("transition_failure", from) };
        self.enter(transition.result_id(success), label, working, next)?;
        if success {
            self.trouble = None;
        }
        if let Some(request) = request {
            respond(request, success)?;
        }
        if self.starting && next == State::Inactive {
            self.begin(Transition::Activate, None)?;
        } else if self.starting && next == State::Active {
            self.starting = false;
            self.notify.send("READY=1");
        }
        Ok(())
    }

    fn enter(&mut self, id: u8, label: &str, from: State, to: State) -> Result<(), NodeError> {
        self.state = to;
        r2r::log_info!(&self.logger, "{}", to.label());
        self.notify.send(&format!("STATUS={}", to.label()));
        let now = lock(&self.node.get_ros_clock()).get_now().map_or(0, |now| now.as_nanos() as u64);
        self.lifecycle
            .announce(id, label, from, to, now)
            .map_err(NodeError::ros("cannot announce a transition"))
    }

    fn look_for_subscribers(&mut self) {
        let Some(Configured { engine, outputs, .. }) = &self.configured else { return };
        if self.looked.elapsed() >= LOOK_FOR_SUBSCRIBERS {
            self.looked = Instant::now();
            let offered = lock(&engine.live).offered;
            for (camera, outputs) in engine.cameras.iter().zip(outputs) {
                camera.wanted.store(outputs.wanted(offered), Relaxed);
            }
        }
    }

    fn report(&mut self) -> Result<(), NodeError> {
        let sources = Sources {
            node: &self.node,
            state: self.state,
            since_active: self.active_since.elapsed(),
            settings: &self.settings,
            engine: self.configured.as_ref().map(|configured| &configured.engine),
            facts: self.configured.as_ref().and_then(|configured| configured.facts.as_ref()),
            trouble: self.trouble.as_deref(),
        };
        self.reporter.tick(&sources).map_err(NodeError::ros("cannot report diagnostics"))
    }

    /// To systemd's watchdog, unless frames are in flight and none gets done.
    fn sign_of_life(&mut self) {
        let stuck = self.configured.as_mut().is_some_and(|configured| {
            let in_flight = configured.engine.in_flight();
            let received: u64 =
                configured.engine.cameras.iter().map(|camera| camera.received.load(Relaxed)).sum();
            let done = received.saturating_sub(in_flight);
            if in_flight == 0 || done != configured.progress.0 {
                configured.progress = (done, Instant::now());
            }
            configured.progress.1.elapsed().as_secs_f64() * 1e3 > lock(&configured.engine.live).max_delay_ms
        });
        if !stuck {
            self.notify.alive();
        }
    }

    /// Lets go of everything that configuring made. Waits for the frames in flight, though not for ever.
    fn stop(&mut self) -> Result<(), NodeError> {
        self.inputs = None;
        if let Some(Configured { engine, outputs, class_info, .. }) = self.configured.take() {
            if !engine.stop() {
                return Err(NodeError::Device(
                    "the device hangs: a frame in flight did not come back".to_owned(),
                ));
            }
            for outputs in outputs {
                outputs.destroy(&mut self.node);
            }
            for outputs in class_info {
                outputs.destroy(&mut self.node);
            }
        }
        lock(&self.parameters).configured = false;
        Ok(())
    }
}

fn respond(request: ChangeRequest, success: bool) -> Result<(), NodeError> {
    let response = r2r::lifecycle_msgs::srv::ChangeState::Response { success };
    request.respond(response).map_err(NodeError::ros("cannot answer"))
}
