"""A recording through the live node: `ros2 bag play` with its clock, the node on simulated time.

    ros2 launch sparse_refine replay.launch.py bag:=/path/to/bag image_topics:=/camera/front/image_raw

Labels arrive on ~/output/<camera>/label, the cost of each frame on ~/debug/<camera>/timing. Scores, and every frame
whatever it takes: `sparse_refine replay`, which needs no ROS.
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import (
    DeclareLaunchArgument,
    ExecuteProcess,
    IncludeLaunchDescription,
    RegisterEventHandler,
    Shutdown,
    TimerAction,
)
from launch.event_handlers import OnProcessExit
from launch.launch_description_sources import PythonLaunchDescriptionSource
from launch.substitutions import LaunchConfiguration

SHARE = get_package_share_directory("sparse_refine")


def generate_launch_description():
    arguments = [
        DeclareLaunchArgument("bag", description="Recording: a rosbag2 folder."),
        DeclareLaunchArgument("rate", default_value="1.0", description="Speed; 0.5 gives the node twice the time."),
        DeclareLaunchArgument("cameras", default_value="front", description="Camera names, separated by commas."),
        DeclareLaunchArgument("image_topics", default_value="", description="Their topics in the recording."),
        DeclareLaunchArgument("start_delay", default_value="8.0", description="Seconds for the node to be ready."),
    ]
    live = IncludeLaunchDescription(
        PythonLaunchDescriptionSource(os.path.join(SHARE, "launch", "sparse_refine.launch.py")),
        launch_arguments={
            "cameras": LaunchConfiguration("cameras"),
            "image_topics": LaunchConfiguration("image_topics"),
            "use_sim_time": "true",
        }.items(),
    )
    play = ExecuteProcess(
        cmd=["ros2", "bag", "play", LaunchConfiguration("bag"), "--clock", "--rate", LaunchConfiguration("rate")],
        output="screen",
    )
    return LaunchDescription(
        arguments
        + [
            live,
            TimerAction(period=LaunchConfiguration("start_delay"), actions=[play]),
            RegisterEventHandler(OnProcessExit(target_action=play, on_exit=[Shutdown(reason="end of the recording")])),
        ]
    )
