#!/usr/bin/env python3
"""What the live node costs: start, idle, overhead, memory. Ends with status 1 if a frame is unaccounted for or memory
grew, so that a long run is a soak test (`make soak`).

    scripts/ros_run.sh scripts/measure_node.py MODEL BAG [--mode refined] [--seconds 60] [--cameras 2] [--hz 10]
"""

import argparse
import os
import struct
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests/ros"))
from conftest import Peer, Running, qos  # noqa: E402
from rosbags.rosbag2 import Reader  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from sparse_refine.msg import FrameTiming  # noqa: E402

IDLE_S = 5
LATE_S = 60  # for the labels of the last frames
GROWTH = 0.02  # of the median resident memory, from the middle third of the run to the last


def cpu_s(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> "tuple[float, float]":
    """All of it, and the part that is shared memory: what the middleware passes images in."""
    status = Path(f"/proc/{pid}/status").read_text()
    return tuple(int(status.split(name + ":")[1].split()[0]) / 1024 for name in ("VmRSS", "RssShmem"))


def measure(a: argparse.Namespace, peer: Peer, names: list) -> bool:
    with Reader(a.bag) as bag:
        images = [c for c in bag.connections if c.msgtype == "sensor_msgs/msg/Image" and "label" not in c.topic]
        frame = bytearray(next(bag.messages(connections=images))[2])
    log = Path(tempfile.mkdtemp()) / "node.log"
    timing = {name: peer.listen(FrameTiming, f"/sparse_refine/debug/{name}/timing", qos(depth=100)) for name in names}
    labels = {name: peer.listen(Image, f"/sparse_refine/output/{name}/label", qos(depth=1),
                                keep=lambda _: time.monotonic()) for name in names}
    out = {name: peer.publisher(Image, f"/sparse_refine/input/{name}/image", qos(False, 1), wait=False) for name in names}

    def publish():
        for name in names:
            struct.pack_into("<iI", frame, 4, *divmod(time.time_ns(), 10**9))
            out[name].publish(bytes(frame))

    began = time.monotonic()
    parameters = {"model": os.path.abspath(a.model), "cameras": ",".join(names), "mode": a.mode}
    node = Running(a.domain, log, parameters, {}, {})
    pid = node.process.pid
    try:
        peer.until(lambda: all(o.get_subscription_count() for o in out.values()), 60, f"the node; its log is {log}")
        ready = time.monotonic() - began
        peer.spin(1)
        before = cpu_s(pid)
        peer.spin(IDLE_S)
        idle = (cpu_s(pid) - before) / IDLE_S
        first = time.monotonic()
        sent = 0
        while not all(labels.values()):  # a frame sent with best effort may be lost
            if time.monotonic() - first > LATE_S:
                sys.exit(f"no labels within {LATE_S} s; the node's log is {log}")
            publish()
            sent += 1
            peer.spin(2)
        print(f"start to subscribed, loaded and warm: {ready:.1f} s; a frame sent then to its label: "
              f"{max(at[0] for at in labels.values()) - first:.1f} s")
        print(f"idle CPU {idle:.2%} of one core")
        memory, tick = [], 0
        started = time.monotonic()
        while time.monotonic() - started < a.seconds:
            publish()
            sent, tick = sent + 1, tick + 1
            peer.spin(max(0.0, started + tick / a.hz - time.monotonic()))
            memory.append(resident_mb(pid))

        def accounted(name):
            last = timing[name][-1]
            return last.received == last.sequence + last.overwritten + last.rejected

        end = time.monotonic() + LATE_S
        while time.monotonic() < end and not all(accounted(name) for name in names):
            peer.spin(0.2)
        sound = True
        for name in names:
            last = timing[name][-1]
            print(f"{name}: {sent} sent, {last.received} received = {last.sequence} labelled + {last.overwritten} overwritten "
                  f"+ {last.rejected} rejected{'' if accounted(name) else ': NOT ALL ACCOUNTED FOR'}; "
                  f"{len(timing[name])} timing messages")
            sound &= accounted(name)
        everything = [t for got in timing.values() for t in got[1:]]
        p50 = {field: float(np.median([getattr(t, field) for t in everything]))
               for field in ("latency_ms", "wait_ms", "stages_ms", "overhead_ms", "publish_ms", "age_ms")}
        print("p50 ms: " + ", ".join(f"{field.removesuffix('_ms')} {value:.1f}" for field, value in p50.items())
              + f"; age p99 {np.percentile([t.age_ms for t in everything], 99):.0f}")
        third = len(memory) // 3
        middle, late = (np.median(memory[from_:to], axis=0) for from_, to in ((third, 2 * third), (2 * third, None)))
        print(f"resident MB (of it shared memory): middle third {middle[0]:.0f} ({middle[1]:.0f}), last third {late[0]:.0f} "
              f"({late[1]:.0f}), most {max(m[0] for m in memory):.0f}")
        if late[0] > middle[0] * (1 + GROWTH):
            print("MEMORY GREW")
            sound = False
    finally:
        code = node.stop(timeout=60)
    print(f"stopped with status {code}")
    return sound and code == 0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("bag", help="a recording; its first image is what every camera sees")
    parser.add_argument("--mode", default="refined")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--cameras", type=int, default=2)
    parser.add_argument("--hz", type=float, default=10)
    parser.add_argument("--domain", type=int, default=90)
    a = parser.parse_args()
    peer = Peer(a.domain)
    try:
        return 0 if measure(a, peer, [f"camera{n}" for n in range(a.cameras)]) else 1
    finally:
        peer.close()


if __name__ == "__main__":
    sys.exit(main())
