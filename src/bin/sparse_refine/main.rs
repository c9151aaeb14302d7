//! The command-line program: parse, build, run.

mod args;
mod bench;
mod bench_cameras;
mod bench_curve;
mod device_plan;
mod doctor;
mod engine;
mod exit;
mod node;
mod replay;
mod synth;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use args::{Cli, Command};
use exit::Failure;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            return usage(&error);
        }
    };
    match run(&cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("sparse_refine: {failure}");
            ExitCode::from(failure.code)
        }
    }
}

/// Help and version as they are, anything else as one line like every other failure.
fn usage(error: &clap::Error) -> ExitCode {
    use clap::error::ErrorKind;
    if !error.use_stderr() || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(if error.use_stderr() { exit::USAGE } else { 0 });
    }
    eprintln!("sparse_refine: {}", args::one_line(&error.to_string()));
    ExitCode::from(exit::USAGE)
}

fn run(cli: &Cli) -> Result<(), Failure> {
    let _trace = trace::start(cli.trace.as_deref())?;
    match &cli.command {
        Command::Replay(args) => replay::run(args, cli.json),
        Command::Bench(args) => bench::run(args, cli.json),
        Command::Synth(args) => synth::run(args, cli.json),
        Command::Doctor(args) => doctor::run(args, cli.json),
        Command::Engine(command) => engine::run(command, cli.json),
        Command::Node(args) => node::run(args),
    }
}

/// Prints a result. A reader that has seen enough (`| head`) is not an error.
fn print(text: &str) {
    use std::io::Write as _;
    let _ = writeln!(std::io::stdout().lock(), "{}", text.trim_end_matches('\n'));
}
