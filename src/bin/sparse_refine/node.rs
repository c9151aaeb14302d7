//! `sparse_refine node`: the ROS 2 node, as `sparse_refine_node` starts it.

use crate::args::NodeArgs;
use crate::exit::{Failure, USAGE};

pub(crate) fn run(args: &NodeArgs) -> Result<(), Failure> {
    if let Some(other) = args.ros.first().filter(|first| *first != "--ros-args") {
        let message = format!(
            "unknown argument `{other}`; parameters go behind --ros-args (see `sparse_refine node --help`)"
        );
        return Err(Failure::new(USAGE, message));
    }
    run_node()
}

/// The node reads the arguments of the process itself.
#[cfg(feature = "ros")]
fn run_node() -> Result<(), Failure> {
    sparse_refine::ros::run().map_err(|error| Failure::new(error.exit_code(), error))
}

#[cfg(not(feature = "ros"))]
fn run_node() -> Result<(), Failure> {
    let message = "the ROS 2 node is not in this build: rebuild with `--features ros`, which needs ROS 2 \
                   (`make ros`, or `colcon build` in a workspace; see docs/ros.md)";
    Err(Failure::new(USAGE, message))
}
