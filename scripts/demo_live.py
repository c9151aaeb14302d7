#!/usr/bin/env python3
"""The node at work: a player publishes a recording over DDS from one process, the node labels it in another, this one
listens and scores.

    demo_live.py NODE BAG MODEL [--rate 1.0]          (run by `make demo`)
"""

import argparse
import os
import subprocess
import sys
import time

import numpy as np
import rclpy
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rosbags.rosbag2 import Reader
from rosbags.typesys import Stores, get_typestore
from sensor_msgs.msg import Image
from sparse_refine.msg import FrameTiming

SETTLE_S = 0.5  # a publisher sees its match before the subscriber does
START_S = 60
QUIET_S = 2  # for what is under way when all seems done
LATE_S = 30  # for the last labels
UNLABELLED = 255


def qos(reliable: bool, depth: int) -> QoSProfile:
    reliability = ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=reliability,
                      durability=DurabilityPolicy.VOLATILE)


def topics(bag: Reader) -> "tuple[str, str | None]":
    """The first camera's image topic and its labels."""
    images = sorted(c.topic for c in bag.connections if c.msgtype == "sensor_msgs/msg/Image" and "label" not in c.topic)
    labels = [c.topic for c in bag.connections if c.topic == images[0].rsplit("/", 1)[0] + "/label"]
    return images[0], labels[0] if labels else None


def play(path: str, rate: float) -> None:
    """Publishes the camera's stored bytes in the recording's rhythm, once somebody listens."""
    rclpy.init()
    node = rclpy.create_node("player")
    with Reader(path) as bag:
        topic, _ = topics(bag)
        publisher = node.create_publisher(Image, topic, qos(False, 2))
        end = time.monotonic() + START_S
        while publisher.get_subscription_count() == 0:
            if time.monotonic() > end:
                sys.exit(f"player: nobody subscribed to {topic}")
            time.sleep(0.05)
        time.sleep(SETTLE_S)
        begin = first = None
        for _, stamp, raw in bag.messages(connections=[c for c in bag.connections if c.topic == topic]):
            begin, first = (time.monotonic(), stamp) if begin is None else (begin, first)
            time.sleep(max(0.0, begin + (stamp - first) / 1e9 / rate - time.monotonic()))
            publisher.publish(bytes(raw))
        time.sleep(SETTLE_S)
    rclpy.shutdown()


def truths(path: str) -> "dict[int, np.ndarray]":
    store = get_typestore(Stores.ROS2_JAZZY)
    found = {}
    with Reader(path) as bag:
        _, topic = topics(bag)
        for connection, _, raw in bag.messages(connections=[c for c in bag.connections if c.topic == topic]):
            label = store.deserialize_cdr(raw, connection.msgtype)
            stamp = label.header.stamp
            found[stamp.sec * 10**9 + stamp.nanosec] = label.data.reshape(label.height, label.width)
    return found


def miou(matrix: np.ndarray) -> float:
    """Mean over the classes that occur in the ground truth."""
    union = matrix.sum(0) + matrix.sum(1) - matrix.diagonal()
    there = matrix.sum(1) > 0
    return float((matrix.diagonal()[there] / union[there]).mean())


def listen(a: argparse.Namespace) -> int:
    with Reader(a.bag) as bag:
        image_topic, _ = topics(bag)
        frames = next(c.msgcount for c in bag.connections if c.topic == image_topic)
    truth = truths(a.bag)
    rclpy.init()
    node = rclpy.create_node("scorer")
    labels, timing = {}, []
    node.create_subscription(Image, "/sparse_refine/output/front/label", lambda m: labels.__setitem__(
        m.header.stamp.sec * 10**9 + m.header.stamp.nanosec,
        np.frombuffer(m.data, np.uint8).reshape(m.height, m.width)), qos(True, 10))
    node.create_subscription(FrameTiming, "/sparse_refine/debug/front/timing", timing.append, qos(True, 100))
    parameters = ["-p", f"model:={a.model}", "-r", f"~/input/front/image:={image_topic}"]
    # The node needs no environment but its own; HOME is for ROS's log.
    environment = {key: os.environ[key] for key in ("HOME", "PATH", "ROS_DOMAIN_ID", "FASTRTPS_DEFAULT_PROFILES_FILE")
                   if key in os.environ}
    program = subprocess.Popen([a.node, "--ros-args", "--log-level", "warn", *parameters], env=environment)
    player = subprocess.Popen([sys.executable, __file__, a.node, a.bag, a.model, "--rate", str(a.rate), "--play"])
    try:
        played_at = None
        while program.poll() is None:
            rclpy.spin_once(node, timeout_sec=0.1)
            if player.poll() is None:
                continue
            played_at = played_at or time.monotonic()
            # Frames may still be in flight: the newest timing message knows, once there is one.
            done = timing and timing[-1].received == timing[-1].sequence + timing[-1].overwritten + timing[-1].rejected
            if time.monotonic() - played_at > (QUIET_S if done else LATE_S):
                break
    finally:
        player.terminate()
        program.terminate()
        code = program.wait()
    if code or not timing:
        print(f"demo: the node ended with status {code} and labelled {len(timing)} frames", file=sys.stderr)
        return code or 1
    matrix = np.zeros((256, 256), np.int64)
    for stamp, found in labels.items():
        if stamp in truth:
            known = truth[stamp] != UNLABELLED
            pairs = truth[stamp][known].astype(np.int64) * 256 + found[known]
            matrix += np.bincount(pairs, minlength=65536).reshape(256, 256)
    last = timing[-1]
    of = {name: np.median([getattr(t, name) for t in timing]) for name in ("stages_ms", "overhead_ms", "latency_ms")}
    stages = ("upload", "preprocess", "segment", "select", "refine", "fuse", "download")
    print(f"""
live, {last.width}x{last.height} over DDS at {a.rate:g} x the recording's rate
  {last.segmenter}; refiner on {last.refiner}; {last.device} ({last.reason})
  frames       {frames} played, {last.received} received, {last.sequence} labelled, {last.overwritten} overwritten, {last.rejected} rejected
  mIoU         {miou(matrix) if matrix.any() else float("nan"):.4f}  (frames labelled live, against the recording's labels)
  refined      {np.mean([t.pixels_refined / (t.width * t.height) for t in timing]):.2%} of the pixels
  ms, median   {of["latency_ms"]:.0f} in the node = waiting + {of["stages_ms"]:.0f} in stages + {of["overhead_ms"]:.0f} for all else
  stages       {", ".join(f"{s} {np.median([getattr(t, s + '_ms') for t in timing]):.0f}" for s in stages)}""")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("node", help="the installed sparse_refine_node")
    parser.add_argument("bag", help="recording with /camera/<camera>/image_raw and /camera/<camera>/label")
    parser.add_argument("model", help="model bundle")
    parser.add_argument("--rate", type=float, default=1.0, help="2 plays twice as fast")
    parser.add_argument("--play", action="store_true", help=argparse.SUPPRESS)
    a = parser.parse_args()
    if a.play:
        play(a.bag, a.rate)
        return 0
    return listen(a)


if __name__ == "__main__":
    sys.exit(main())
