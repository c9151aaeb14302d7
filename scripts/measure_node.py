#!/usr/bin/env python3
"""What the live node costs: start, idle, overhead at 8 MP, memory.

    scripts/ros_run.sh scripts/measure_node.py MODEL BAG [--mode refined] [--seconds 60] [--cameras 2] [--hz 10]
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/ros"))
from conftest import Peer, Running, qos  # noqa: E402
from rclpy.serialization import deserialize_message  # noqa: E402
from rosbags.rosbag2 import Reader  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from sparse_refine.msg import FrameTiming  # noqa: E402


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("bag", help="a recording; its first image is what every camera sees")
    parser.add_argument("--mode", default="refined")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--hz", type=float, default=10)
    parser.add_argument("--domain", type=int, default=90)
    a = parser.parse_args()
    names = [f"camera{n}" for n in range(a.cameras)]
    log = Path(tempfile.mkdtemp()) / "node.log"
    with Reader(a.bag) as bag:
        images = [c for c in bag.connections if c.msgtype == "sensor_msgs/msg/Image" and "label" not in c.topic]
        frame = deserialize_message(bytes(next(bag.messages(connections=images))[2]), Image)
    peer = Peer(a.domain)
    began = time.monotonic()
    node = Running(a.domain, log, {"model": os.path.abspath(a.model), "cameras": ",".join(names), "mode": a.mode}, {}, {})
    pid = node.process.pid
    try:
        timing = {name: peer.listen(FrameTiming, f"/sparse_refine/debug/{name}/timing") for name in names}
        labels = peer.listen(Image, f"/sparse_refine/output/{names[0]}/label", qos(depth=1), keep=lambda _: time.monotonic())
        out = {name: peer.publisher(Image, f"/sparse_refine/input/{name}/image", qos(False, 1)) for name in names}
        ready = time.monotonic() - began
        before = cpu_s(pid)
        peer.spin(5)
        idle = (cpu_s(pid) - before) / 5
        memory = []
        started = time.monotonic()
        tick = 0
        while time.monotonic() - started < a.seconds:
            for name in names:
                frame.header.stamp.sec, frame.header.stamp.nanosec = divmod(time.time_ns(), 10**9)
                out[name].publish(frame)
            tick += 1
            peer.spin(max(0.0, started + tick / a.hz - time.monotonic()))
            memory.append(resident_mb(pid))
        peer.spin(3)
        everything = [t for got in timing.values() for t in got]
        if not everything or not labels:
            sys.exit(f"no labels; the node's log is {log}")
        p50 = lambda name: float(np.median([getattr(t, name) for t in everything]))  # noqa: E731
        third = len(memory) // 3
        print(f"start to subscribed {ready:.1f} s (settling of {0.5 * a.cameras:.1f} s included)")
        print(f"idle CPU {idle:.2%} of one core")
        print(f"labelled {len(everything)} of {sum(got[-1].received for got in timing.values() if got)} received")
        print(f"p50 ms: latency {p50('latency_ms'):.1f}, wait {p50('wait_ms'):.1f}, stages {p50('stages_ms'):.1f}, "
              f"overhead {p50('overhead_ms'):.1f}, publish {p50('publish_ms'):.1f}")
        print(f"resident MB: middle third {np.median(memory[third:2 * third]):.0f}, last third "
              f"{np.median(memory[2 * third:]):.0f}, most {max(memory):.0f}")
    finally:
        node.stop(timeout=60)
        peer.close()


if __name__ == "__main__":
    main()
