//! Writes street scenes with labels: `synth_folder OUT WxH FIRST_SEED SCENES FRAMES [CAMERAS]`.

use std::path::Path;
use std::process::ExitCode;

use sparse_refine::synth::{Series, write_folder};

fn run(arguments: &[String]) -> Result<(), String> {
    let [out, size, first_seed, scenes, frames, rest @ ..] = arguments else {
        return Err("usage: synth_folder OUT WxH FIRST_SEED SCENES FRAMES [CAMERAS]".into());
    };
    let wrong = |what: &'static str| move |_| format!("{what} must be a whole number");
    let series = Series {
        size: size.parse()?,
        first_seed: first_seed.parse().map_err(wrong("FIRST_SEED"))?,
        scenes: scenes.parse().map_err(wrong("SCENES"))?,
        frames: frames.parse().map_err(wrong("FRAMES"))?,
        cameras: rest.first().map_or(Ok(1), |text| text.parse()).map_err(wrong("CAMERAS"))?,
    };
    write_folder(Path::new(out), &series).map_err(|error| error.to_string())
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::from(2)
        }
    }
}
