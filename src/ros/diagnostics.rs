//! What `/diagnostics` says, from plain numbers: levels, hints and Autoware's key names. Levels are debounced, since an
//! error may stop a car.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::camera::Last;
use super::parameters::Live;

/// `diagnostic_msgs/DiagnosticStatus` levels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok = 0,
    Warn = 1,
    Error = 2,
    Stale = 3,
}

/// Shows a level once it was found twice in a row.
pub(super) struct Debounced {
    shown: Level,
    found: Level,
}

impl Default for Debounced {
    fn default() -> Self {
        Self { shown: Level::Ok, found: Level::Ok }
    }
}

impl Debounced {
    pub(super) fn next(&mut self, level: Level) -> Level {
        if level == self.found {
            self.shown = level;
        }
        self.found = level;
        self.shown
    }
}

/// What a publisher on a camera's topic offers.
#[derive(Clone, Debug)]
pub(super) struct Offer {
    pub(super) node: String,
    pub(super) type_name: String,
    pub(super) best_effort: bool,
}

/// A camera's state for one report.
pub(super) struct CameraState<'a> {
    pub(super) active: bool,
    pub(super) since_active: Duration,
    pub(super) now: Instant,
    pub(super) last: Option<Last>,
    pub(super) rejected_since_report: u64,
    pub(super) rejections: BTreeMap<&'static str, (u64, String)>,
    pub(super) input_hz: f64,
    pub(super) live: Live,
    pub(super) topic: &'a str,
    pub(super) type_name: &'static str,
    pub(super) reliable: bool,
    pub(super) offers: &'a [Offer],
}

impl CameraState<'_> {
    /// Name of the state of the node, as in the timing message.
    pub(super) fn mode(&self) -> &'static str {
        if !self.active {
            return "INACTIVE";
        }
        match &self.last {
            Some(_) if self.silence() > self.live.max_age_ms => "STALE",
            Some(last) if last.coarse_only => "COARSE_ONLY",
            Some(_) => "NOMINAL",
            None => "STALE",
        }
    }

    /// Milliseconds without a label.
    fn silence(&self) -> f64 {
        let since = self.last.map_or(self.since_active, |last| {
            self.now.saturating_duration_since(last.at).min(self.since_active)
        });
        since.as_secs_f64() * 1e3
    }

    /// Milliseconds since a frame kept to the time allowed.
    fn delay(&self) -> f64 {
        self.last.map_or(0.0, |last| last.at.saturating_duration_since(last.in_time).as_secs_f64() * 1e3)
    }

    /// Level and a sentence.
    pub(super) fn verdict(&self) -> (Level, String) {
        if !self.active {
            return (Level::Ok, "not active".to_owned());
        }
        let (silence, live) = (self.silence(), &self.live);
        if silence > live.max_age_ms {
            let level = if silence > live.max_delay_ms { Level::Error } else { Level::Stale };
            return (level, format!("no label for {silence:.0} ms: {}", self.hint()));
        }
        let Some(last) = &self.last else { return (Level::Ok, "waiting for the first frame".to_owned()) };
        if self.delay() > live.max_delay_ms {
            return (Level::Error, format!("no frame in time for {:.0} ms", self.delay()));
        }
        if last.latency_ms > live.max_processing_ms {
            let text = format!(
                "a frame took {:.0} ms, {:.0} ms are allowed",
                last.latency_ms, live.max_processing_ms
            );
            return (Level::Warn, text);
        }
        if self.rejected_since_report > 0 {
            let newest =
                self.rejections.values().map(|(_, text)| text.as_str()).next_back().unwrap_or_default();
            return (Level::Warn, format!("{} frames rejected: {newest}", self.rejected_since_report));
        }
        if last.coarse_only {
            return (
                Level::Warn,
                "coarse labels only: the time budget leaves nothing to refine in".to_owned(),
            );
        }
        (Level::Ok, format!("{:.1} Hz", self.input_hz))
    }

    /// Why no frame comes in, as far as can be seen from here.
    fn hint(&self) -> String {
        let topic = self.topic;
        if self.input_hz > 0.0 {
            return match self.rejections.values().map(|(_, text)| text.as_str()).next_back() {
                Some(text) if self.rejected_since_report > 0 => {
                    format!("frames come in and are rejected: {text}")
                }
                _ => "frames come in, none is finished".to_owned(),
            };
        }
        let Some(offer) = self.offers.first() else {
            return format!("nobody publishes {topic}; remap it (~/input/<camera>/image:=/your/topic)");
        };
        if let Some(other) = self.offers.iter().find(|offer| offer.type_name != self.type_name) {
            let Offer { node, type_name, .. } = other;
            return format!(
                "{node} publishes {type_name} on {topic}, input.transport asks for {}",
                self.type_name
            );
        }
        if self.reliable && offer.best_effort {
            return format!(
                "QoS mismatch: {} offers best_effort on {topic}, input.reliability asks for reliable; set best_effort",
                offer.node
            );
        }
        format!(
            "0 Hz from {} on {topic}: check its shared memory segment (set FASTRTPS_DEFAULT_PROFILES_FILE to \
             config/fastdds_8mp.xml for the driver too) or that it still runs",
            offer.node
        )
    }

    /// Autoware's keys, and ours.
    pub(super) fn values(&self) -> Vec<(String, String)> {
        let number = |value: Option<f64>| value.map_or("n/a".to_owned(), |value| format!("{value:.2}"));
        let last = self.last.as_ref();
        let live = &self.live;
        let in_range = |in_range: Option<bool>| in_range.map_or("n/a".to_owned(), |value| value.to_string());
        let mut values = vec![
            ("mode".to_owned(), self.mode().to_owned()),
            (
                "is_processing_time_ms_in_expected_range".to_owned(),
                in_range(last.map(|last| last.latency_ms <= live.max_processing_ms)),
            ),
            (
                "is_consecutive_processing_delay_in_range".to_owned(),
                in_range(last.map(|_| self.delay() <= live.max_delay_ms)),
            ),
            ("processing_time_ms".to_owned(), number(last.map(|last| last.latency_ms))),
            ("preprocess_time_ms".to_owned(), number(last.map(|last| last.preprocess_ms))),
            ("inference_time_ms".to_owned(), number(last.map(|last| last.inference_ms))),
            ("postprocess_time_ms".to_owned(), number(last.map(|last| last.postprocess_ms))),
            ("age_ms".to_owned(), number(last.map(|last| last.age_ms))),
            ("input_rate_hz".to_owned(), number(Some(self.input_hz))),
            (
                "pixels_refined".to_owned(),
                last.map_or("n/a".to_owned(), |last| last.pixels_refined.to_string()),
            ),
            (
                "pixels_dropped".to_owned(),
                last.map_or("n/a".to_owned(), |last| last.pixels_dropped.to_string()),
            ),
            ("input_topic".to_owned(), self.topic.to_owned()),
            ("input_publishers".to_owned(), self.offers.len().to_string()),
        ];
        for (reason, (count, _)) in &self.rejections {
            values.push((format!("rejected.{reason}"), count.to_string()));
        }
        values
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ros::parameters::Parameters;

    const IMAGE: &str = "sensor_msgs/msg/Image";

    fn last(now: Instant, ms_ago: u64, latency_ms: f64) -> Last {
        let at = now - Duration::from_millis(ms_ago);
        Last {
            at,
            in_time: at,
            latency_ms,
            age_ms: 0.0,
            preprocess_ms: 1.0,
            inference_ms: 2.0,
            postprocess_ms: 3.0,
            pixels_refined: 7,
            pixels_dropped: 0,
            coarse_only: false,
        }
    }

    fn state<'a>(now: Instant, last: Option<Last>, offers: &'a [Offer]) -> CameraState<'a> {
        CameraState {
            active: true,
            since_active: Duration::from_secs(100),
            now,
            last,
            rejected_since_report: 0,
            rejections: BTreeMap::new(),
            input_hz: 0.0,
            live: Parameters::new().live(),
            topic: "/camera/front/image_raw",
            type_name: IMAGE,
            reliable: true,
            offers,
        }
    }

    fn offer(type_name: &str, best_effort: bool) -> Offer {
        Offer { node: "/driver".into(), type_name: type_name.into(), best_effort }
    }

    #[test]
    fn levels_follow_silence_delay_and_time() {
        let now = Instant::now() + Duration::from_secs(60);
        let verdict = |frame| state(now, frame, &[]).verdict().0;
        assert_eq!(verdict(Some(last(now, 10, 50.0))), Level::Ok);
        assert_eq!(verdict(Some(last(now, 10, 1500.0))), Level::Warn);
        assert_eq!(verdict(Some(last(now, 2000, 50.0))), Level::Stale);
        assert_eq!(verdict(Some(last(now, 6000, 50.0))), Level::Error);
        assert_eq!(verdict(None), Level::Error, "100 s without a first frame");
        let mut late = last(now, 10, 1500.0);
        late.in_time = late.at - Duration::from_secs(6);
        assert_eq!(verdict(Some(late)), Level::Error);
        let mut resting = state(now, None, &[]);
        resting.active = false;
        assert_eq!((resting.verdict().0, resting.mode()), (Level::Ok, "INACTIVE"));
    }

    #[test]
    fn hints_name_the_likely_cause() {
        let now = Instant::now();
        let hint = |offers: &[Offer]| state(now, None, offers).verdict().1;
        assert!(hint(&[]).contains("nobody publishes /camera/front/image_raw"));
        assert!(hint(&[offer("sensor_msgs/msg/CompressedImage", false)]).contains("input.transport"));
        assert!(hint(&[offer(IMAGE, true)]).contains("QoS mismatch"));
        assert!(hint(&[offer(IMAGE, false)]).contains("shared memory segment"));
    }

    #[test]
    fn a_level_is_shown_when_found_twice() {
        let mut debounced = Debounced::default();
        let shown: Vec<Level> =
            [Level::Error, Level::Ok, Level::Ok, Level::Error, Level::Error, Level::Ok, Level::Ok]
                .into_iter()
                .map(|level| debounced.next(level))
                .collect();
        use Level::{Error, Ok};
        assert_eq!(shown, [Ok, Ok, Ok, Ok, Error, Error, Ok]);
    }

    #[test]
    fn before_the_first_frame_the_keys_say_so() {
        let values: BTreeMap<_, _> = state(Instant::now(), None, &[]).values().into_iter().collect();
        for key in ["is_processing_time_ms_in_expected_range", "inference_time_ms", "preprocess_time_ms"] {
            assert_eq!(values[key], "n/a");
        }
        assert_eq!(values["mode"], "STALE");
    }
}
