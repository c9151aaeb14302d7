#!/usr/bin/env python3
"""The node that one would write first: rclpy, ONNX Runtime and numpy. For comparison only (`scripts/bench_nodes.py`).

    scripts/ros_run.sh scripts/bench_python_node.py NETWORK.onnx repeated|bilinear
"""

import array
import sys
from pathlib import Path

import numpy as np
import rclpy
from rclpy.qos import qos_profile_sensor_data
from sensor_msgs.msg import Image

from bench_baselines import Labeller


def main() -> None:
    label = Labeller(Path(sys.argv[1]), sys.argv[2] == "bilinear")
    rclpy.init()
    node = rclpy.create_node("python_node")
    labels = node.create_publisher(Image, "~/label", 1)

    def on_image(message: Image) -> None:
        rows = np.frombuffer(message.data, dtype=np.uint8).reshape(message.height, message.step)
        found = label(rows[:, : message.width * 3].reshape(message.height, message.width, 3))
        out = Image(header=message.header, height=message.height, width=message.width, step=message.width, encoding="mono8")
        out.data = array.array("B", np.ascontiguousarray(found).tobytes())
        labels.publish(out)

    node.create_subscription(Image, "~/image", on_image, qos_profile_sensor_data)
    try:
        rclpy.spin(node)
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
