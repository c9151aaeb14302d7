//! A recording through the pipeline: every frame labelled, scored where the recording has true labels, and written down.

mod compare;
mod labels;
mod output;
mod source;
mod truth;

use std::path::PathBuf;
use std::time::Instant;

pub use compare::{LABEL_BAG, write_comparison};
pub use labels::camera_names;

use crate::bag::frame_timing::{Counters, FrameTiming};
use crate::bag::topics::camera_topics;
use crate::bag::{Bag, BagError};
use crate::eval::{
    Comparison, EntropyGrid, Measure, ModelFacts, Outcome as RowOutcome, Panel, Report, RunFacts, Scorer,
    Summary,
};
use crate::pipeline::{
    self, Admission, Backend, Extras, FrameOutputs, Outcome, RunError, RunSettings, StageError, StampGaps,
    Step,
};
use crate::plan::{Geometry, Plan};
use crate::types::{BackendFacts, FrameReport, LabelImage, Mode};
use labels::LabelBag;
use output::OutputFolder;
use source::{Camera, Recorded, Source};
use truth::Truth;

/// What to replay, and where to write it.
#[derive(Clone, Debug)]
pub struct ReplayOptions {
    /// A rosbag2.
    pub bag: PathBuf,
    /// Folder of the results.
    pub out: PathBuf,
    /// Write into a folder that is not empty.
    pub force: bool,
    /// Image topics, one per camera; all that are not label topics if empty.
    pub image_topics: Vec<String>,
    /// Label topics of the first cameras; found by name if empty.
    pub label_topics: Vec<String>,
    /// Also write a bag with the labels.
    pub write_bag: bool,
    /// Frames shown in the report.
    pub panels: usize,
    /// Frames in flight.
    pub slots: usize,
    /// Time per frame in milliseconds, if bounded.
    pub budget_ms: Option<f64>,
    /// The bundle, for the report.
    pub model: ModelFacts,
    /// The backend, for the report.
    pub backend: BackendFacts,
    /// A bag with the labels of an earlier replay of the same recording, to compare with.
    pub against: Option<PathBuf>,
}

/// Why a replay did not happen.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the message of each variant says what its fields are")]
pub enum ReplayError {
    #[error(transparent)]
    Bag(#[from] BagError),
    #[error("no image topic in the bag; topics are: {topics}: {}", path.display())]
    NoImages { topics: String, path: PathBuf },
    #[error(
        "{labels} --label-topic for {images} --image-topic; give each label topic after its camera's image topic"
    )]
    TooManyLabels { labels: usize, images: usize },
    #[error("--image-topic names `{topic}` twice; name each camera once")]
    RepeatedTopic { topic: String },
    #[error(
        "the recording {} lies where the labels of this replay would go; choose another output folder: {}",
        bag.display(), out.display()
    )]
    OwnRecording { bag: PathBuf, out: PathBuf },
    #[error("the output folder is not empty; choose another or add --force: {}", path.display())]
    NotEmpty { path: PathBuf },
    #[error("cannot write ({why}); check permissions and free space: {}", path.display())]
    Unwritable { why: std::io::Error, path: PathBuf },
    #[error(transparent)]
    Device(StageError),
}

/// A finished replay.
#[derive(Debug)]
pub struct Replayed {
    /// What `summary.json` says.
    pub summary: Summary,
    /// Path of `report.html`.
    pub report: PathBuf,
    /// How the labels differ from those of [`ReplayOptions::against`].
    pub comparison: Option<Comparison>,
}

/// Replays a bag. `progress` hears the number of finished frames and, where the bag says it, of all frames.
pub fn replay<B: Backend>(
    backend: &B,
    plan: &Plan,
    options: &ReplayOptions,
    mut progress: impl FnMut(u64, Option<u64>),
) -> Result<Replayed, ReplayError> {
    let bag = Bag::open(&options.bag)?;
    let cameras = choose_cameras(&bag, options)?;
    let total = frame_count(&bag, &cameras);
    if output::holds(&options.out, &options.bag) {
        return Err(ReplayError::OwnRecording { bag: options.bag.clone(), out: options.out.clone() });
    }
    let mut folder = OutputFolder::prepare(&options.out, options.force)?;
    let topics: Vec<String> = cameras.iter().map(|camera| camera.topic.clone()).collect();
    let names = camera_names(&topics);
    let label_bag = match options.write_bag {
        true => Some(LabelBag::create(&folder.bag_path(), &names, &plan.classes)?),
        false => None,
    };
    let former = match &options.against {
        Some(path) => Some(compare::former_labels(path, &cameras, &names)?),
        None => None,
    };
    let source = Source::open(&bag, &cameras)?;
    let damage = source.damage();
    let mut sink = Sink {
        plan,
        scorer: Scorer::new(plan.mode, &plan.classes, &topics),
        truth: Truth::open(&bag, &cameras)?,
        label_bag,
        former,
        comparison: options.against.as_ref().map(|_| Comparison::new(options.panels)),
        counts: cameras.iter().map(|_| Count::default()).collect(),
        options,
        panels: Vec::new(),
        panel_every: panel_interval(total, options.panels),
        panel_count: options.panels,
        topics,
        names,
        index: 0,
        sink_s: 0.0,
    };

    let settings = RunSettings {
        cameras: cameras.len(),
        slots: options.slots,
        admission: Admission::Every,
        mode: plan.mode,
        extras: Extras { coarse: plan.mode == Mode::Refined, entropy: options.panels > 0, refined: false },
        budget_ms: options.budget_ms,
    };
    let start = Instant::now();
    let ran = pipeline::run(
        backend,
        &settings,
        |size| plan.capacity(size),
        source,
        |outcome| {
            let begun = Instant::now();
            sink.take(&outcome, &mut folder)?;
            sink.sink_s += begun.elapsed().as_secs_f64();
            progress(sink.index, total);
            Ok::<_, ReplayError>(())
        },
    );
    let wall_s = start.elapsed().as_secs_f64();
    match ran {
        Ok(()) => {}
        Err(RunError::Sink(error)) => return Err(error),
        Err(RunError::Device(lost)) => return Err(ReplayError::Device(lost)),
    }

    let mut damaged: Vec<String> = bag.warnings().to_vec();
    damaged.append(&mut damage.lock().unwrap_or_else(std::sync::PoisonError::into_inner));
    damaged.extend(sink.truth.damage());
    let summary = sink.scorer.finish(RunFacts {
        bag: options.bag.display().to_string(),
        model: options.model.clone(),
        backend: options.backend.clone(),
        threads: plan.threads,
        // With one frame in flight nothing runs while a frame is scored, and scoring is not what is measured.
        wall_s: if options.slots == 1 { wall_s - sink.sink_s } else { wall_s },
        damage: damaged,
    });
    if let Some(label_bag) = sink.label_bag {
        label_bag.finish()?;
    }
    let page = Report {
        summary: &summary,
        classes: &plan.classes,
        latencies_ms: sink.scorer.latencies_ms(),
        panels: &sink.panels,
    };
    let report = folder.finish(&summary, &page.to_html())?;
    Ok(Replayed { summary, report, comparison: sink.comparison })
}

/// The cameras to replay: those the user named, or all.
fn choose_cameras(bag: &Bag, options: &ReplayOptions) -> Result<Vec<Camera>, ReplayError> {
    let found = camera_topics(bag.topics());
    if options.label_topics.len() > options.image_topics.len() {
        return Err(ReplayError::TooManyLabels {
            labels: options.label_topics.len(),
            images: options.image_topics.len(),
        });
    }
    if options.image_topics.is_empty() {
        if found.is_empty() {
            let topics: Vec<&str> = bag.topics().iter().map(|topic| topic.name.as_str()).collect();
            let topics = if topics.is_empty() { "none".to_owned() } else { topics.join(", ") };
            return Err(ReplayError::NoImages { topics, path: options.bag.clone() });
        }
        return Ok(found.into_iter().map(Camera::from).collect());
    }
    let cameras = options.image_topics.iter().enumerate().map(|(index, topic)| {
        if options.image_topics[..index].contains(topic) {
            return Err(ReplayError::RepeatedTopic { topic: topic.clone() });
        }
        let known = found.iter().find(|camera| camera.image.name == *topic);
        let label = match options.label_topics.get(index) {
            Some(label) => Some((label.clone(), bag.image_kind(label)?)),
            None => known.and_then(|camera| camera.label.clone()).map(|label| (label.name, label.kind)),
        };
        Ok(Camera { topic: topic.clone(), kind: bag.image_kind(topic)?, label })
    });
    cameras.collect()
}

fn frame_count(bag: &Bag, cameras: &[Camera]) -> Option<u64> {
    let count = |camera: &Camera| bag.topic(&camera.topic).ok().and_then(|topic| topic.messages);
    cameras.iter().map(count).sum()
}

/// Every how many frames one is shown, so that the panels spread over the recording.
fn panel_interval(total: Option<u64>, panels: usize) -> u64 {
    total.map_or(1, |total| total / (panels.max(1) as u64)).max(1)
}

/// Frames of one camera, counted as the live node counts them.
#[derive(Default)]
struct Count {
    stamps: StampGaps,
    counters: Counters,
}

impl Count {
    fn add(&mut self, payload: &Recorded, labelled: bool) {
        let Counters { received, labelled: labels, rejected, stamp_gaps, time_jumps, .. } =
            &mut self.counters;
        *received += 1;
        *if labelled { labels } else { rejected } += 1;
        if let Some((stamp, _)) = payload.header() {
            match self.stamps.step(stamp) {
                Step::Forward(missing) => *stamp_gaps += missing,
                Step::Backward => *time_jumps += 1,
            }
        }
    }
}

/// Takes finished frames in: scores, rows, pictures, label bag.
struct Sink<'a> {
    plan: &'a Plan,
    scorer: Scorer,
    truth: Truth,
    label_bag: Option<LabelBag>,
    /// Labels of the replay to compare with.
    former: Option<Truth>,
    comparison: Option<Comparison>,
    /// Of each camera.
    counts: Vec<Count>,
    options: &'a ReplayOptions,
    panels: Vec<Panel>,
    panel_every: u64,
    panel_count: usize,
    topics: Vec<String>,
    names: Vec<String>,
    index: u64,
    sink_s: f64,
}

impl Sink<'_> {
    fn take(
        &mut self,
        outcome: &Outcome<'_, Recorded>,
        folder: &mut OutputFolder,
    ) -> Result<(), ReplayError> {
        let camera = usize::from(outcome.camera.0);
        let payload = outcome.payload;
        let index = self.index;
        self.index += 1;
        self.counts[camera].add(payload, outcome.result.is_ok());
        let row = |outcome| crate::eval::FrameRow {
            index,
            camera: &self.names[camera],
            topic: &self.topics[camera],
            stamp: payload.stamp(),
            outcome,
        };
        let report = match &outcome.result {
            Ok(report) => report,
            Err(error) => {
                tracing::info!("frame {index} of {} rejected: {error}", self.topics[camera]);
                self.scorer.add_rejected(outcome.camera, error.reason());
                return folder.row(&row(RowOutcome::Rejected(error.reason())));
            }
        };
        let truth = self.truth.find(outcome.camera, report.stamp, payload.log_time_ns);
        let outputs = outcome.outputs;
        let coarse = (self.plan.mode == Mode::Refined).then_some(&outputs.coarse);
        let latency_ms = outcome.latency_ms;
        let miou = self.scorer.add_frame(report, truth.as_ref(), coarse, &outputs.labels, latency_ms);
        folder.row(&row(RowOutcome::Labelled { report, latency_ms, miou }))?;
        if let Some(label_bag) = &mut self.label_bag {
            let timing = FrameTiming {
                stamp: report.stamp,
                frame_id: payload.frame_id(),
                camera: &self.names[camera],
                backend: &self.options.backend,
                model: &self.options.model.name,
                report,
                decode_ms: payload.decode_ms(),
                // A recording waits for the pipeline, and nothing is published.
                wait_ms: 0.0,
                publish_ms: 0.0,
                latency_ms,
                age_ms: (payload.log_time_ns - report.stamp.as_nanos()) as f64 / 1e6 + latency_ms,
                budget_ms: self.options.budget_ms,
                counters: self.counts[camera].counters,
            };
            label_bag.write(camera, &outputs.labels, &timing, payload.log_time_ns)?;
        }
        if let Some(former) = &mut self.former {
            let first = former.find(outcome.camera, report.stamp, payload.log_time_ns);
            let title = format!("{} at {}", self.topics[camera], report.stamp);
            if let Some(mut comparison) = self.comparison.take() {
                comparison.add(first, &outputs.labels, |first| {
                    let panel = self.panel(title, payload, report, outputs, truth.clone());
                    Panel { coarse: Some(first), entropy: None, ..panel }
                });
                self.comparison = Some(comparison);
            }
        }
        if index.is_multiple_of(self.panel_every) && self.panels.len() < self.panel_count {
            let title = format!("{} at {}", self.topics[camera], report.stamp);
            self.panels.push(self.panel(title, payload, report, outputs, truth));
        }
        Ok(())
    }

    fn panel(
        &self,
        title: String,
        payload: &Recorded,
        report: &FrameReport,
        outputs: &FrameOutputs,
        truth: Option<LabelImage>,
    ) -> Panel {
        let size = report.size;
        let grid = outputs.entropy_size;
        let geometry = match self.plan.geometry(size) {
            Ok(geometry) if grid != size => geometry.with_grid(grid),
            _ => Geometry::stretch(size, grid),
        };
        Panel {
            title,
            size,
            rgb: payload.rgb(size),
            coarse: (self.plan.mode == Mode::Refined).then(|| outputs.coarse.clone()),
            refined: outputs.labels.clone(),
            truth,
            entropy: (!outputs.entropy.is_empty()).then(|| EntropyGrid {
                measure: if self.plan.columns.is_some() { Measure::Weight } else { Measure::Entropy },
                geometry,
                values: outputs.entropy.clone(),
                max: self.plan.highest_measure(),
            }),
        }
    }
}
