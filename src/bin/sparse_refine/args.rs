//! The command line as the user types it.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use sparse_refine::config::{BackendChoice, Config, OnnxEngine};
use sparse_refine::types::{Mode, Size};

/// Camera-resolution semantic labels: a dense low-resolution network, sparse full-resolution refinement.
#[derive(Parser)]
#[command(
    version,
    after_help = "Exit status: 0 done; 2 usage or configuration; 3 unreadable model or bag, or unwritable output; \
                  4 the backend asked for is not available; 5 device lost while running."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Print one JSON object on standard output instead of text.
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Write a Chrome/Perfetto trace of every stage of every frame to FILE.
    #[arg(long, global = true, value_name = "FILE")]
    pub(crate) trace: Option<PathBuf>,
}

#[derive(Subcommand)]
pub(crate) enum Command {
    /// Label every frame of a rosbag2, score it where the bag has labels, and write a report.
    Replay(ReplayArgs),
    /// Time coarse, refined and dense side by side in one run.
    Bench(BenchArgs),
    /// Make a sample recording of street scenes with exact labels.
    Synth(SynthArgs),
    /// Say which backends work here, and why the others do not.
    Doctor(DoctorArgs),
    /// Run the ROS 2 node: camera images in, labels and timing out. The same as `sparse_refine_node`.
    Node(NodeArgs),
    /// Make, list and check TensorRT engines.
    #[command(subcommand)]
    Engine(EngineCommand),
}

#[derive(Subcommand)]
pub(crate) enum EngineCommand {
    /// Build the engine of a bundle's dense network, unless it is there already.
    Build(EngineBuildArgs),
    /// Show the engines, and whether they fit this machine.
    List {
        #[command(flatten)]
        network: EngineNetwork,
        #[command(flatten)]
        place: EnginePlace,
    },
    /// Check that every engine is whole and, with --model, that one runs here.
    Verify {
        #[command(flatten)]
        network: EngineNetwork,
        #[command(flatten)]
        place: EnginePlace,
    },
}

#[derive(Args)]
pub(crate) struct EngineNetwork {
    /// Only the engines of this bundle.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Its full-resolution network instead of the segmenter.
    #[arg(long, requires = "model")]
    pub(crate) dense: bool,
}

#[derive(Args)]
pub(crate) struct EnginePlace {
    /// Folder of the engines [default: $SPARSE_REFINE_ENGINES, else ~/.cache/sparse_refine/engines].
    #[arg(long, value_name = "DIR")]
    pub(crate) engines: Option<PathBuf>,
    /// TensorRT's library or its folder [default: $SPARSE_REFINE_TENSORRT, else what the system finds].
    #[arg(long, value_name = "PATH")]
    pub(crate) library: Option<PathBuf>,
}

#[derive(Args)]
pub(crate) struct EngineBuildArgs {
    /// Model bundle: a folder with model.toml.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Its full-resolution network instead of the segmenter.
    #[arg(long)]
    pub(crate) dense: bool,
    /// As typed in the ONNX, or what TensorRT 10 may use beside it.
    #[arg(long, value_enum, default_value_t = PrecisionArg::Typed)]
    pub(crate) precision: PrecisionArg,
    /// TensorRT-RTX: devices to build for, such as 86,89 [default: all it knows].
    #[arg(long, value_delimiter = ',', value_name = "SM,SM", value_parser = clap::value_parser!(u32).range(10..1000))]
    pub(crate) compute_capabilities: Vec<u32>,
    /// Build even if the engine is there.
    #[arg(long)]
    pub(crate) force: bool,
    #[command(flatten)]
    pub(crate) place: EnginePlace,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum PrecisionArg {
    Typed,
    Fp16,
    Int8,
}

/// Longest side of a picture that is drawn here.
const SIDE_LIMIT: u32 = 16_384;

fn drawn_size(text: &str) -> Result<Size, String> {
    let size: Size = text.parse()?;
    if size.width > SIDE_LIMIT || size.height > SIDE_LIMIT {
        return Err(format!("{size} is too large: at most {SIDE_LIMIT} pixels a side"));
    }
    Ok(size)
}

/// What the parser says over several lines, in one: the fault, tips, and where the help is.
pub(crate) fn one_line(error: &str) -> String {
    let mut parts = Vec::new();
    let mut command = "sparse_refine".to_owned();
    for line in error.lines().map(str::trim) {
        if let Some(usage) = line.strip_prefix("Usage: ") {
            let words = usage.split(' ').take_while(|word| !word.starts_with(['[', '<', '-']));
            command = words.collect::<Vec<_>>().join(" ");
        } else if !line.is_empty() && !line.starts_with("For more information") {
            parts.push(line.strip_prefix("error: ").unwrap_or(line));
        }
    }
    format!("{}; see `{command} --help`", parts.join(" "))
}

#[derive(Args)]
pub(crate) struct ReplayArgs {
    /// A rosbag2 folder, .mcap or .db3 file (also .zstd).
    pub(crate) bag: PathBuf,
    /// Model bundle: a folder with model.toml.
    #[arg(long, value_name = "DIR", required_unless_present = "compare")]
    pub(crate) model: Option<PathBuf>,
    /// Two model bundles in place of --model: replays both into OUT/a and OUT/b and writes OUT/compare.html and .json.
    #[arg(long, num_args = 2, value_names = ["A", "B"], conflicts_with = "model")]
    pub(crate) compare: Vec<PathBuf>,
    /// Folder for summary.json, frames.csv and report.html; made if missing, refused if not empty.
    #[arg(long, value_name = "DIR")]
    pub(crate) out: PathBuf,
    /// Write into an output folder that is not empty, over an earlier replay's files.
    #[arg(long)]
    pub(crate) force: bool,
    /// Image topic to replay, once per camera [default: every image topic that is not a label topic].
    #[arg(long = "image-topic", value_name = "TOPIC")]
    pub(crate) image_topics: Vec<String>,
    /// Label topic of the camera given at the same place by --image-topic [default: found by name].
    #[arg(long = "label-topic", value_name = "TOPIC")]
    pub(crate) label_topics: Vec<String>,
    /// Also write a rosbag2 with the labels to OUT/bag.
    #[arg(long)]
    pub(crate) write_bag: bool,
    /// Frames in flight [default: 1 on a CPU].
    #[arg(long, value_name = "N")]
    pub(crate) slots: Option<usize>,
    /// Frames shown as pictures in the report.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub(crate) panels: usize,
    #[command(flatten)]
    pub(crate) run: RunArgs,
    /// What to compute.
    #[arg(long, value_enum, default_value_t = ModeArg::Refined)]
    pub(crate) mode: ModeArg,
}

#[derive(Args)]
pub(crate) struct RunArgs {
    /// Hardware to run on; auto takes the best that works and says which.
    #[arg(long, value_enum, default_value_t = BackendArg::Auto)]
    pub(crate) backend: BackendArg,
    /// Library that runs ONNX on the CPU.
    #[arg(long, value_enum, default_value_t = EngineArg::Rten)]
    pub(crate) onnx_engine: EngineArg,
    /// Refine pixels whose entropy exceeds A nats [default: the bundle's].
    #[arg(long, value_name = "A", allow_negative_numbers = true)]
    pub(crate) alpha: Option<f32>,
    /// Refine at most this share of the pixels, 0 to 1 [default: the bundle's].
    #[arg(long, value_name = "SHARE", allow_negative_numbers = true)]
    pub(crate) max_fraction: Option<f32>,
    /// Refine only what fits into X milliseconds a frame [default: no bound].
    #[arg(long, value_name = "X", allow_negative_numbers = true)]
    pub(crate) budget_ms: Option<f64>,
    /// CPU threads of all stages together [default: all].
    #[arg(long, value_name = "N")]
    pub(crate) threads: Option<usize>,
}

#[derive(Args)]
pub(crate) struct BenchArgs {
    /// Model bundle: a folder with model.toml.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: PathBuf,
    /// Camera resolution.
    #[arg(long, value_name = "WxH", default_value = "3840x2160", value_parser = drawn_size)]
    pub(crate) size: Size,
    /// Frames timed per mode, after two that are not.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) frames: u32,
    /// Modes to time, each frame in each mode in turn [default: all that the bundle has].
    #[arg(long, value_enum, value_delimiter = ',', value_name = "MODE,MODE")]
    pub(crate) compare: Vec<ModeArg>,
    /// Instead: refine within several budgets and score the labels. FILE gets the curve as a page.
    #[arg(long, value_name = "FILE")]
    pub(crate) curve: Option<PathBuf>,
    /// Instead: K cameras at once as fast as they go, refined; frames per second and latency.
    #[arg(long, value_name = "K", conflicts_with_all = ["curve", "compare"], value_parser = clap::value_parser!(u16).range(1..=16))]
    pub(crate) cameras: Option<u16>,
    /// With --cameras: frames in flight [default: 1 on a CPU].
    #[arg(long, value_name = "N", requires = "cameras")]
    pub(crate) slots: Option<usize>,
    #[command(flatten)]
    pub(crate) run: RunArgs,
}

#[derive(Args)]
pub(crate) struct SynthArgs {
    /// Folder to make.
    pub(crate) out: PathBuf,
    /// Resolution of every image.
    #[arg(long, value_name = "WxH", default_value = "3840x2160", value_parser = drawn_size)]
    pub(crate) size: Size,
    /// Frames per camera and scene.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) frames: u32,
    /// Cameras.
    #[arg(long, value_name = "K", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=16))]
    pub(crate) cameras: u32,
    /// Seed of the (first) scene; the same seed gives the same pixels on every machine.
    #[arg(long, value_name = "S", default_value_t = 1)]
    pub(crate) seed: u64,
    /// Scenes, with seeds from --seed on; a recording shows one after the other.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) scenes: u32,
    /// A rosbag2, or folders of PNG images and labels for training.
    #[arg(long, value_enum, default_value_t = SynthFormat::Bag)]
    pub(crate) format: SynthFormat,
    /// Frames per second of the recording.
    #[arg(long, value_name = "HZ", default_value_t = 10.0, allow_negative_numbers = true)]
    pub(crate) fps: f64,
    /// Write images into a folder that is not empty. A recording never replaces what is there.
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args)]
pub(crate) struct DoctorArgs {
    /// Also check this model bundle.
    #[arg(long, value_name = "DIR")]
    pub(crate) model: Option<PathBuf>,
    /// Print what a camera of this size takes on a CUDA device with the model: memory, sites, launches.
    #[arg(long, value_name = "WxH", requires = "model")]
    pub(crate) plan: Option<Size>,
}

#[derive(Args)]
pub(crate) struct NodeArgs {
    /// Arguments of ROS 2, such as `--ros-args -p model:=engines/streets`; see docs/ros.md.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ROS_ARGUMENTS")]
    pub(crate) ros: Vec<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum SynthFormat {
    Bag,
    Images,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ModeArg {
    Refined,
    Coarse,
    Dense,
}

impl From<ModeArg> for Mode {
    fn from(mode: ModeArg) -> Self {
        match mode {
            ModeArg::Refined => Self::Refined,
            ModeArg::Coarse => Self::Coarse,
            ModeArg::Dense => Self::Dense,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendArg {
    Auto,
    Cpu,
    Cuda,
    Tensorrt,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EngineArg {
    Rten,
    Ort,
}

impl RunArgs {
    /// As settings of the library.
    pub(crate) fn config(&self, mode: Mode) -> Config {
        Config {
            backend: match self.backend {
                BackendArg::Auto => BackendChoice::Auto,
                BackendArg::Cpu => BackendChoice::Cpu,
                BackendArg::Cuda => BackendChoice::Cuda,
                BackendArg::Tensorrt => BackendChoice::Tensorrt,
            },
            onnx_engine: match self.onnx_engine {
                EngineArg::Rten => OnnxEngine::Rten,
                EngineArg::Ort => OnnxEngine::Ort,
            },
            mode,
            alpha: self.alpha,
            max_fraction: self.max_fraction,
            budget_ms: self.budget_ms,
            threads: self.threads,
            slots: None,
        }
    }
}
