"""One node for one or several cameras.

    ros2 launch sparse_refine sparse_refine.launch.py cameras:=front,left \
        image_topics:=/camera/front/image_raw,/camera/left/image_raw
"""

import os

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, OpaqueFunction, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import Node

SHARE = get_package_share_directory("sparse_refine")


def names(text):
    return [part.strip() for part in text.split(",") if part.strip()]


def node(context):
    def value(argument):
        return LaunchConfiguration(argument).perform(context)

    cameras = names(value("cameras"))
    images = names(value("image_topics")) or [f"/camera/{camera}/image_raw" for camera in cameras]
    if len(images) != len(cameras):
        raise RuntimeError(f"image_topics names {len(images)} topics for {len(cameras)} cameras: {cameras}")
    remappings = []
    for camera, image in zip(cameras, images):
        remappings.append((f"~/input/{camera}/image", image))
        remappings.append((f"~/input/{camera}/image/compressed", image + "/compressed"))
        remappings.append((f"~/input/{camera}/camera_info", image.rsplit("/", 1)[0] + "/camera_info"))
    given = {"cameras": ",".join(cameras), "use_sim_time": value("use_sim_time").lower() == "true"}
    for parameter in ("model", "backend", "mode"):
        if value(parameter):
            given[parameter] = value(parameter)
    return [
        Node(
            package="sparse_refine",
            executable="sparse_refine_node",
            name="sparse_refine",
            namespace=value("namespace"),
            parameters=[value("sparse_refine_param_path"), given],
            remappings=remappings,
            output="screen",
            emulate_tty=True,
            # Exit codes 2, 3 and 4 are mistakes in the configuration, 5 is a lost device: see docs/ros.md.
            respawn=value("respawn").lower() == "true",
            respawn_delay=2.0,
        )
    ]


def generate_launch_description():
    arguments = [
        ("cameras", "front", "Camera names, separated by commas."),
        ("image_topics", "", "Image topic of each camera, in the same order [/camera/<camera>/image_raw]."),
        ("sparse_refine_param_path", os.path.join(SHARE, "config", "sparse_refine.param.yaml"), "Parameter file."),
        ("model", "", "Model bundle; empty: as in the parameter file."),
        ("backend", "", "auto, cpu, cuda or tensorrt; empty: as in the parameter file."),
        ("mode", "", "refined or coarse; empty: as in the parameter file."),
        ("namespace", "", "Namespace of the node."),
        ("use_sim_time", "false", "Take the time from /clock (recordings)."),
        ("respawn", "false", "Start the node again when it dies."),
        (
            "fastdds_profile",
            os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE", os.path.join(SHARE, "config", "fastdds_8mp.xml")),
            "Fast DDS transport profile. Set the same for the camera driver: the publishing side decides.",
        ),
    ]
    return LaunchDescription(
        [DeclareLaunchArgument(name, default_value=default, description=text) for name, default, text in arguments]
        + [
            SetEnvironmentVariable("FASTRTPS_DEFAULT_PROFILES_FILE", LaunchConfiguration("fastdds_profile")),
            OpaqueFunction(function=node),
        ]
    )
