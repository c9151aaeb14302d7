//! The node's parameters: one table of types, units, ranges and defaults; what is not in it is refused.
//!
//! `config/sparse_refine.param.yaml` and `schema/sparse_refine.schema.json` say the same to people and editors; a test
//! holds them against this table.

use r2r::indexmap::IndexMap;
use r2r::{Parameter, ParameterValue, RosParams};

use crate::config::{BackendChoice, Config};
use crate::types::{Mode, Size};

/// Values a parameter may have; the first of a list and the value beside a range are the default.
enum Kind {
    Flag(bool),
    Whole {
        default: i64,
        min: i64,
        max: i64,
    },
    /// `special` is allowed beside the range, with a meaning of its own.
    Real {
        default: f64,
        min: f64,
        max: f64,
        special: Option<f64>,
    },
    Choice(&'static [&'static str]),
    Text(&'static str),
}

struct Spec {
    name: &'static str,
    kind: Kind,
    /// Takes effect while the node runs; the others only when it is configured.
    live: bool,
    text: &'static str,
}

const fn fixed(name: &'static str, kind: Kind, text: &'static str) -> Spec {
    Spec { name, kind, live: false, text }
}

const fn live(name: &'static str, kind: Kind, text: &'static str) -> Spec {
    Spec { name, kind, live: true, text }
}

const fn real(default: f64, min: f64, max: f64, special: Option<f64>) -> Kind {
    Kind::Real { default, min, max, special }
}

const TABLE: &[Spec] = &[
    fixed(
        "model",
        Kind::Text("streets"),
        "Model bundle: a shipped name, or a path to a folder with model.toml",
    ),
    fixed("cameras", Kind::Text("front"), "Camera names, separated by commas, each a part of topic names"),
    fixed("backend", Kind::Choice(&["auto", "cpu", "cuda", "tensorrt"]), "Hardware to run on"),
    fixed("mode", Kind::Choice(&["refined", "coarse"]), "What is computed"),
    live(
        "alpha",
        real(-1.0, 0.0, 10.0, Some(-1.0)),
        "Refine pixels whose entropy exceeds this, nats; -1: the bundle's",
    ),
    fixed(
        "max_fraction",
        real(-1.0, 1e-6, 1.0, Some(-1.0)),
        "Largest share of the pixels to refine; -1: the bundle's",
    ),
    live(
        "time_budget_ms",
        real(0.0, 1.0, 10_000.0, Some(0.0)),
        "Time for the stages of a frame, ms; 0: unbounded",
    ),
    fixed(
        "threads",
        Kind::Whole { default: 0, min: 0, max: 1024 },
        "CPU threads of all stages together; 0: all",
    ),
    fixed("slots", Kind::Whole { default: 1, min: 1, max: 16 }, "Frames in flight"),
    fixed("warm_up_size", Kind::Text("3840x2160"), "Camera size to warm up with, WIDTHxHEIGHT"),
    fixed("autostart", Kind::Flag(true), "Configure and activate at start"),
    live(
        "max_age_ms",
        real(1000.0, 10.0, 60_000.0, None),
        "Without a frame for so long a camera is stale, ms",
    ),
    fixed("input.transport", Kind::Choice(&["raw", "compressed"]), "Image or CompressedImage"),
    fixed("input.reliability", Kind::Choice(&["best_effort", "reliable"]), "QoS of the image subscriptions"),
    fixed("output.reliability", Kind::Choice(&["reliable", "best_effort"]), "QoS of the label publishers"),
    live("output.label_compressed", Kind::Flag(true), "Offer the label as PNG"),
    live("output.color", Kind::Flag(true), "Offer the label in the classes' colours"),
    live("output.overlay", Kind::Flag(true), "Offer the camera image with the colours over it"),
    live("output.entropy", Kind::Flag(true), "Offer the segmenter's entropy"),
    live("output.refined_mask", Kind::Flag(true), "Offer the mask of refined pixels"),
    fixed("diagnostics.period_s", real(1.0, 0.1, 60.0, None), "Period of /diagnostics, s"),
    live(
        "diagnostics.max_allowed_processing_time_ms",
        real(1000.0, 1.0, 60_000.0, None),
        "A frame that takes longer is a warning, ms",
    ),
    live(
        "diagnostics.max_acceptable_consecutive_delay_ms",
        real(5000.0, 1.0, 600_000.0, None),
        "Longer than that without a frame in time is an error, ms",
    ),
    fixed("use_sim_time", Kind::Flag(false), "Take the time from /clock"),
];

impl Spec {
    fn default(&self) -> ParameterValue {
        match self.kind {
            Kind::Flag(default) => ParameterValue::Bool(default),
            Kind::Whole { default, .. } => ParameterValue::Integer(default),
            Kind::Real { default, .. } => ParameterValue::Double(default),
            Kind::Choice(allowed) => ParameterValue::String(allowed[0].to_owned()),
            Kind::Text(default) => ParameterValue::String(default.to_owned()),
        }
    }

    /// What would do, in words.
    fn allowed(&self) -> String {
        match self.kind {
            Kind::Flag(_) => "a bool".to_owned(),
            Kind::Whole { min, max, .. } => format!("an integer, {min} to {max}"),
            Kind::Real { min, max, special: None, .. } => format!("a double, {min} to {max}"),
            Kind::Real { min, max, special: Some(special), .. } => {
                format!("a double, {min} to {max}, or {special}")
            }
            Kind::Choice(allowed) => format!("one of {}", allowed.join(", ")),
            Kind::Text(_) => "a string".to_owned(),
        }
    }

    fn check(&self, value: &ParameterValue) -> Result<(), String> {
        let right = match (&self.kind, value) {
            (Kind::Flag(_), ParameterValue::Bool(_)) => true,
            (Kind::Whole { min, max, .. }, ParameterValue::Integer(value)) => (min..=max).contains(&value),
            (Kind::Real { min, max, special, .. }, ParameterValue::Double(value)) => {
                (min..=max).contains(&value) || special.is_some_and(|special| special == *value)
            }
            (Kind::Choice(allowed), ParameterValue::String(value)) => allowed.contains(&value.as_str()),
            (Kind::Text(_), ParameterValue::String(value)) => return self.check_text(value),
            _ => false,
        };
        if right {
            Ok(())
        } else {
            Err(format!("{} wants {}, got {}", self.name, self.allowed(), shown(value)))
        }
    }

    fn check_text(&self, value: &str) -> Result<(), String> {
        match self.name {
            "cameras" => camera_names(value).map(|_| ()),
            "warm_up_size" => value.parse::<Size>().map(|_| ()).map_err(|why| format!("warm_up_size: {why}")),
            _ if value.is_empty() => Err(format!("{} is empty", self.name)),
            _ => Ok(()),
        }
    }
}

fn shown(value: &ParameterValue) -> String {
    match value {
        ParameterValue::Bool(value) => value.to_string(),
        ParameterValue::Integer(value) => format!("the integer {value}"),
        ParameterValue::Double(value) => value.to_string(),
        ParameterValue::String(value) => format!("`{value}`"),
        other => format!("a {}", other.type_name()),
    }
}

/// The names in a comma-separated list: 1 to 16, different, and each fit to be a part of a topic name.
fn camera_names(list: &str) -> Result<Vec<String>, String> {
    let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
    if names.len() > 16 {
        return Err(format!("cameras names {}, at most 16 are possible", names.len()));
    }
    for (place, name) in names.iter().enumerate() {
        let fits = name.starts_with(|first: char| first.is_ascii_lowercase())
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !fits {
            return Err(format!(
                "cameras holds `{name}`: a name is lower-case letters, digits and _, and begins with a letter"
            ));
        }
        if names[..place].contains(name) {
            return Err(format!("cameras names `{name}` twice"));
        }
    }
    Ok(names)
}

/// The current values, as the parameter services see them.
pub(super) struct Parameters {
    values: Vec<ParameterValue>,
    /// Only live parameters may change.
    pub(super) configured: bool,
    changed: bool,
}

impl Parameters {
    /// The defaults.
    pub(super) fn new() -> Self {
        Self { values: TABLE.iter().map(Spec::default).collect(), configured: false, changed: false }
    }

    /// Checks the overrides of the command line and parameter files: the first that is wrong, in words.
    pub(super) fn check_overrides(overrides: &IndexMap<String, Parameter>) -> Result<(), String> {
        overrides.iter().try_for_each(|(name, parameter)| spec(name)?.1.check(&parameter.value))
    }

    /// Whether a value was set since the last call.
    pub(super) fn take_changed(&mut self) -> bool {
        std::mem::take(&mut self.changed)
    }

    fn value(&self, name: &str) -> &ParameterValue {
        &self.values[spec(name).expect("only names of the table are asked for").0]
    }

    fn flag(&self, name: &str) -> bool {
        matches!(self.value(name), ParameterValue::Bool(true))
    }

    fn real(&self, name: &str) -> f64 {
        if let ParameterValue::Double(value) = self.value(name) { *value } else { f64::NAN }
    }

    fn whole(&self, name: &str) -> usize {
        if let ParameterValue::Integer(value) = self.value(name) {
            usize::try_from(*value).unwrap_or(0)
        } else {
            0
        }
    }

    fn text(&self, name: &str) -> &str {
        if let ParameterValue::String(value) = self.value(name) { value } else { "" }
    }

    /// The values the node is configured with.
    pub(super) fn settings(&self) -> Settings {
        let bundles = |value: f64| (value >= 0.0).then_some(value as f32);
        let above_0 = |value: usize| (value > 0).then_some(value);
        Settings {
            model: self.text("model").to_owned(),
            cameras: camera_names(self.text("cameras")).unwrap_or_default(),
            config: Config {
                backend: match self.text("backend") {
                    "cpu" => BackendChoice::Cpu,
                    "cuda" => BackendChoice::Cuda,
                    "tensorrt" => BackendChoice::Tensorrt,
                    _ => BackendChoice::Auto,
                },
                mode: if self.text("mode") == "coarse" { Mode::Coarse } else { Mode::Refined },
                alpha: bundles(self.real("alpha")),
                max_fraction: bundles(self.real("max_fraction")),
                threads: above_0(self.whole("threads")),
                slots: Some(self.whole("slots")),
                ..Config::default()
            },
            warm_up_size: self.text("warm_up_size").parse().unwrap_or_default(),
            autostart: self.flag("autostart"),
            compressed_input: self.text("input.transport") == "compressed",
            reliable_input: self.text("input.reliability") == "reliable",
            reliable_output: self.text("output.reliability") == "reliable",
            diagnostics_period_s: self.real("diagnostics.period_s"),
            live: self.live(),
        }
    }

    /// The values that can change while the node runs.
    pub(super) fn live(&self) -> Live {
        let (alpha, budget) = (self.real("alpha"), self.real("time_budget_ms"));
        Live {
            alpha: (alpha >= 0.0).then_some(alpha as f32),
            time_budget_ms: (budget > 0.0).then_some(budget),
            max_age_ms: self.real("max_age_ms"),
            offered: [
                self.flag("output.label_compressed"),
                self.flag("output.color"),
                self.flag("output.overlay"),
                self.flag("output.entropy"),
                self.flag("output.refined_mask"),
            ],
            max_processing_ms: self.real("diagnostics.max_allowed_processing_time_ms"),
            max_delay_ms: self.real("diagnostics.max_acceptable_consecutive_delay_ms"),
        }
    }
}

/// Place and row of a parameter, or that there is none of that name.
fn spec(name: &str) -> Result<(usize, &'static Spec), String> {
    TABLE.iter().enumerate().find(|(_, spec)| spec.name == name).ok_or_else(|| {
        let names: Vec<&str> = TABLE.iter().map(|spec| spec.name).collect();
        format!("there is no parameter `{name}`; there are {}", names.join(", "))
    })
}

/// r2r has no error that holds just a sentence; this one comes nearest.
fn refused(name: &str, msg: String) -> r2r::Error {
    r2r::Error::ParameterValueConv { name: name.to_owned(), msg }
}

impl RosParams for Parameters {
    fn register_parameters(
        &mut self,
        _prefix: &str,
        _parameter: Option<Parameter>,
        parameters: &mut IndexMap<String, Parameter>,
    ) -> r2r::Result<()> {
        for (name, parameter) in parameters.drain(..) {
            self.check_parameter(&name, &parameter.value)?;
            let place = spec(&name).map_err(|why| refused(&name, why))?.0;
            self.values[place] = parameter.value;
        }
        for (spec, value) in TABLE.iter().zip(&self.values) {
            let live = if spec.live { "; can change while the node runs" } else { "" };
            // r2r wants a description that lives for ever; there is one set of parameters in a process.
            let description = Box::leak(format!("{} ({}{live})", spec.text, spec.allowed()).into_boxed_str());
            parameters.insert(spec.name.to_owned(), Parameter { value: value.clone(), description });
        }
        Ok(())
    }

    fn get_parameter(&mut self, name: &str) -> r2r::Result<ParameterValue> {
        let (place, _) = spec(name).map_err(|why| refused(name, why))?;
        Ok(self.values[place].clone())
    }

    fn set_parameter(&mut self, name: &str, value: &ParameterValue) -> r2r::Result<()> {
        self.check_parameter(name, value)?;
        let (place, _) = spec(name).map_err(|why| refused(name, why))?;
        self.changed |= self.values[place] != *value;
        self.values[place] = value.clone();
        Ok(())
    }

    fn check_parameter(&self, name: &str, value: &ParameterValue) -> r2r::Result<()> {
        let (place, spec) = spec(name).map_err(|why| refused(name, why))?;
        spec.check(value).map_err(|why| refused(name, why))?;
        if self.configured && !spec.live && self.values[place] != *value {
            let why =
                "it cannot change while the node is configured: clean up first (~/change_state), or restart";
            return Err(refused(name, why.to_owned()));
        }
        Ok(())
    }
}

/// What the node is configured with.
#[derive(Clone, Debug)]
pub(super) struct Settings {
    pub(super) model: String,
    pub(super) cameras: Vec<String>,
    pub(super) config: Config,
    pub(super) warm_up_size: Size,
    pub(super) autostart: bool,
    pub(super) compressed_input: bool,
    pub(super) reliable_input: bool,
    pub(super) reliable_output: bool,
    pub(super) diagnostics_period_s: f64,
    pub(super) live: Live,
}

/// What can change while the node runs.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Live {
    /// Nats; `None`: the bundle's.
    pub(super) alpha: Option<f32>,
    pub(super) time_budget_ms: Option<f64>,
    pub(super) max_age_ms: f64,
    /// Which outputs beside the label may be subscribed to, in the order of [`super::outputs::Extra`].
    pub(super) offered: [bool; 5],
    pub(super) max_processing_ms: f64,
    pub(super) max_delay_ms: f64,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(result: r2r::Result<()>) -> String {
        result.unwrap_err().to_string()
    }

    #[test]
    fn defaults_are_in_range() {
        for spec in TABLE {
            assert_eq!(spec.check(&spec.default()), Ok(()), "{}", spec.name);
        }
        let settings = Parameters::new().settings();
        assert_eq!(settings.cameras, ["front"]);
        assert_eq!((settings.config.alpha, settings.config.threads), (None, None));
        assert_eq!(settings.warm_up_size, Size::new(3840, 2160));
    }

    #[test]
    fn refusals_say_what_would_do() {
        let mut parameters = Parameters::new();
        let cases = [
            ("alpha", ParameterValue::Double(10.1), "0 to 10, or -1"),
            ("alpha", ParameterValue::Double(-0.5), "0 to 10, or -1"),
            ("alpha", ParameterValue::Double(f64::NAN), "NaN"),
            ("alpha", ParameterValue::Integer(1), "the integer 1"),
            ("slots", ParameterValue::Integer(17), "1 to 16"),
            ("mode", ParameterValue::String("dense".into()), "refined, coarse"),
            ("cameras", ParameterValue::String("front,front".into()), "twice"),
            ("cameras", ParameterValue::String("front,".into()), "begins with a letter"),
            ("warm_up_size", ParameterValue::String("big".into()), "WIDTHxHEIGHT"),
            ("model", ParameterValue::String(String::new()), "empty"),
            ("alhpa", ParameterValue::Double(0.1), "there is no parameter `alhpa`"),
        ];
        for (name, value, expected) in cases {
            let why = reason(parameters.set_parameter(name, &value));
            assert!(why.contains(expected), "{name}: {why}");
        }
        assert!(!parameters.take_changed());
    }

    #[test]
    fn while_configured_only_live_parameters_change() {
        let mut parameters = Parameters::new();
        parameters.configured = true;
        parameters.set_parameter("time_budget_ms", &ParameterValue::Double(250.0)).unwrap();
        assert!(parameters.take_changed() && !parameters.take_changed());
        assert_eq!(parameters.live().time_budget_ms, Some(250.0));
        let mode = ParameterValue::String("coarse".into());
        assert!(reason(parameters.set_parameter("mode", &mode)).contains("clean up first"));
        parameters.configured = false;
        parameters.set_parameter("mode", &mode).unwrap();
        assert_eq!(parameters.settings().config.mode, Mode::Coarse);
    }

    #[test]
    fn overrides_of_the_command_line_are_taken_over_and_unknown_ones_refused() {
        let mut overrides = IndexMap::new();
        overrides.insert("slots".to_owned(), Parameter::new(ParameterValue::Integer(2)));
        let mut parameters = Parameters::new();
        parameters.register_parameters("", None, &mut overrides).unwrap();
        assert_eq!(parameters.settings().config.slots, Some(2));
        assert_eq!(overrides.len(), TABLE.len(), "every parameter is listed");
        overrides.insert("extra".to_owned(), Parameter::new(ParameterValue::Integer(2)));
        assert!(Parameters::check_overrides(&overrides).unwrap_err().contains("`extra`"));
    }
}
