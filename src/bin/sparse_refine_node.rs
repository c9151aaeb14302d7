//! The ROS 2 node as a program: arguments, exit status.

use std::process::ExitCode;

const USAGE: &str = "\
ROS 2 node: camera images in, semantic labels at camera resolution out.

Usage: sparse_refine_node [--ros-args [-p NAME:=VALUE].. [--params-file FILE] [-r FROM:=TO]..]

Parameters, topics and messages: docs/ros.md; config/sparse_refine.param.yaml has every parameter with its default.
Exit status: 0 stopped; 2 arguments or parameters; 3 unreadable model; 4 the backend asked for is not available;
5 device lost while running.";

fn main() -> ExitCode {
    // What stands before --ros-args is ours, the rest is rcl's.
    match std::env::args().nth(1).as_deref() {
        None | Some("--ros-args") => {}
        Some("-h" | "--help") => {
            println!("{USAGE}");
            return ExitCode::SUCCESS;
        }
        Some("-V" | "--version") => {
            println!("sparse_refine_node {}", env!("CARGO_PKG_VERSION"));
            return ExitCode::SUCCESS;
        }
        Some(other) => {
            eprintln!(
                "sparse_refine_node: unknown argument `{other}`; parameters go behind --ros-args (see --help)"
            );
            return ExitCode::from(2);
        }
    }
    match sparse_refine::ros::run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("sparse_refine_node: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}
