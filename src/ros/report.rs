//! Publishes `/diagnostics`: gathers the numbers, asks [`super::diagnostics`] what to say of them.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use r2r::diagnostic_msgs::msg::{DiagnosticArray, DiagnosticStatus, KeyValue};
use r2r::qos::ReliabilityPolicy;
use r2r::{Clock, Node, Publisher, QosProfile};

use super::diagnostics::{CameraState, Debounced, Level, Offer};
use super::engine::{Engine, Facts};
use super::lifecycle::State;
use super::names::resolve;
use super::parameters::Settings;
use crate::types::CameraId;

/// Where the numbers of one report come from.
pub(super) struct Sources<'a> {
    pub(super) node: &'a Node,
    pub(super) state: State,
    pub(super) since_active: Duration,
    pub(super) settings: &'a Settings,
    pub(super) engine: Option<&'a Engine>,
    pub(super) facts: Option<&'a Facts>,
    pub(super) trouble: Option<&'a str>,
}

/// What is remembered from one report to the next.
pub(super) struct Reporter {
    publisher: Publisher<DiagnosticArray>,
    node_name: String,
    full_name: String,
    remappings: Vec<(String, String)>,
    last: Instant,
    cameras: Vec<Memory>,
}

#[derive(Default)]
struct Memory {
    received: u64,
    rejected: u64,
    level: Debounced,
}

impl Reporter {
    pub(super) fn create(node: &mut Node, remappings: Vec<(String, String)>) -> r2r::Result<Self> {
        Ok(Self {
            publisher: node.create_publisher("/diagnostics", QosProfile::default().keep_last(10))?,
            node_name: node.name()?,
            full_name: node.fully_qualified_name()?,
            remappings,
            last: Instant::now(),
            cameras: Vec::new(),
        })
    }

    /// Forgets the cameras of an earlier configuration.
    pub(super) fn reset(&mut self) {
        self.cameras.clear();
    }

    /// Reports if it is time. Runs on the node's thread, which waits for nothing: a stuck pipeline is reported too.
    pub(super) fn tick(&mut self, sources: &Sources<'_>) -> r2r::Result<()> {
        let now = Instant::now();
        let elapsed = now.duration_since(self.last);
        if elapsed.as_secs_f64() < sources.settings.diagnostics_period_s {
            return Ok(());
        }
        self.last = now;
        let mut status = vec![self.pipeline(sources)];
        if let Some(engine) = sources.engine {
            self.cameras.resize_with(engine.cameras.len(), Memory::default);
            for index in 0..engine.cameras.len() {
                status.push(self.camera(sources, engine, index, now, elapsed));
            }
        }
        let mut message = DiagnosticArray { status, ..DiagnosticArray::default() };
        let clock = sources.node.get_ros_clock();
        message.header.stamp = Clock::to_builtin_time(&super::camera::lock(&clock).get_now()?);
        self.publisher.publish(&message)
    }

    fn pipeline(&self, sources: &Sources<'_>) -> DiagnosticStatus {
        let (level, message) = match (sources.trouble, sources.state) {
            (Some(trouble), _) => (Level::Error, trouble.to_owned()),
            (None, state) => (Level::Ok, state.label().to_owned()),
        };
        let mut values = vec![
            ("state".to_owned(), sources.state.label().to_owned()),
            ("version".to_owned(), env!("CARGO_PKG_VERSION").to_owned()),
            ("ros_distro".to_owned(), r2r::ROS_DISTRO.to_owned()),
            (
                "fastdds_profile".to_owned(),
                std::env::var("FASTRTPS_DEFAULT_PROFILES_FILE").unwrap_or_else(|_| "not set".to_owned()),
            ),
        ];
        if let Some(facts) = sources.facts {
            values.extend([
                ("model".to_owned(), facts.model.clone()),
                ("segmenter".to_owned(), facts.backend.segmenter.clone()),
                ("refiner".to_owned(), facts.backend.refiner.clone()),
                ("device".to_owned(), facts.backend.device.clone()),
                ("backend_reason".to_owned(), facts.backend.reason.clone()),
            ]);
        }
        self.status("pipeline", level, message, values, sources.facts)
    }

    fn camera(
        &mut self,
        sources: &Sources<'_>,
        engine: &Engine,
        index: usize,
        now: Instant,
        elapsed: Duration,
    ) -> DiagnosticStatus {
        let camera = &engine.cameras[index];
        let memory = &mut self.cameras[index];
        let received = camera.received.load(Relaxed);
        let rejected = camera.rejected.load(Relaxed);
        let input_hz = (received - memory.received) as f64 / elapsed.as_secs_f64();
        let rejected_since_report = rejected - memory.rejected;
        (memory.received, memory.rejected) = (received, rejected);

        let compressed = sources.settings.compressed_input;
        let suffix = if compressed { "/compressed" } else { "" };
        let topic =
            resolve(&format!("input/{}/image{suffix}", camera.name), &self.full_name, &self.remappings);
        // What cannot be looked up is no reason to stop: the hint is less precise then.
        let publishers = sources.node.get_publishers_info_by_topic(&topic, false).unwrap_or_default();
        let offers: Vec<Offer> = publishers
            .into_iter()
            .map(|publisher| Offer {
                node: format!("{}/{}", publisher.node_namespace.trim_end_matches('/'), publisher.node_name),
                type_name: publisher.topic_type,
                best_effort: matches!(publisher.qos_profile.reliability, ReliabilityPolicy::BestEffort),
            })
            .collect();
        let live = *super::camera::lock(&engine.live);
        let state = CameraState {
            active: sources.state == State::Active,
            since_active: sources.since_active,
            now,
            last: camera.last(),
            rejected_since_report,
            rejections: camera.rejections(),
            input_hz,
            live,
            topic: &topic,
            type_name: if compressed { "sensor_msgs/msg/CompressedImage" } else { "sensor_msgs/msg/Image" },
            reliable: sources.settings.reliable_input,
            offers: &offers,
        };
        let (level, message) = state.verdict();
        let level = self.cameras[index].level.next(level);
        let mut values = state.values();
        let counters = [
            ("received", received),
            ("labelled", camera.labelled.load(Relaxed)),
            ("overwritten", engine.mailboxes.overwritten(CameraId(index as u16))),
            ("rejected", rejected),
            ("stamp_gaps", camera.stamp_gaps.load(Relaxed)),
            ("time_jumps", camera.time_jumps.load(Relaxed)),
        ];
        values.extend(counters.map(|(name, count)| (name.to_owned(), count.to_string())));
        self.status(&format!("camera {}", camera.name), level, message, values, sources.facts)
    }

    fn status(
        &self,
        task: &str,
        level: Level,
        message: String,
        values: Vec<(String, String)>,
        facts: Option<&Facts>,
    ) -> DiagnosticStatus {
        DiagnosticStatus {
            level: level as u8,
            name: format!("{}: {task}", self.node_name),
            message,
            hardware_id: facts
                .map_or_else(|| "unconfigured".to_owned(), |facts| facts.backend.device.clone()),
            values: values.into_iter().map(|(key, value)| KeyValue { key, value }).collect(),
        }
    }
}
