#!/usr/bin/env python3
"""The live node beside plain Python nodes, each alone, one frame at a time: from publishing a frame to having its label.

    scripts/ros_run.sh scripts/bench_nodes.py BUNDLE DENSE_BUNDLE SCENES [--frames 10]

SCENES is a folder of `synth --format images`; its pictures are shown in turn. Prints one JSON list. PYTHONPATH must lead to
onnxruntime and Pillow. Needs `make ros`.
"""

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests/ros"))
import numpy as np  # noqa: E402
from conftest import NODE, Peer, image, qos  # noqa: E402
from PIL import Image as Picture  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402

WAIT_S = 60
WARM_UP = 2


def measure(program, topics, pictures, frames, domain) -> list:
    """Milliseconds from publishing to the label, per frame."""
    peer = Peer(domain)
    log = tempfile.TemporaryFile()
    process = subprocess.Popen(program, env=os.environ | {"ROS_DOMAIN_ID": str(domain)}, stdout=log, stderr=log)
    try:
        got = peer.listen(Image, topics[1], qos(depth=1), keep=lambda message: (time.monotonic(), message.header.stamp.sec))
        out = peer.publisher(Image, topics[0], qos(False, 1))
        times = []
        for frame in range(1, frames + WARM_UP + 1):
            message = image(pictures[frame % len(pictures)], frame * 10**9)
            sent = time.monotonic()
            out.publish(message)
            while not (got and got[-1][1] == frame):
                if time.monotonic() - sent > WAIT_S:
                    log.seek(0)
                    sys.exit(f"no label within {WAIT_S} s: {log.read()[-300:]}")
                peer.executor.spin_once(timeout_sec=0.05)
            times.append((got[-1][0] - sent) * 1e3)
        return times[WARM_UP:]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        peer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    parser.add_argument("dense_bundle", type=Path)
    parser.add_argument("scenes", type=Path)
    parser.add_argument("--frames", type=int, default=10)
    parser.add_argument("--domain", type=int, default=91)
    a = parser.parse_args()
    pictures = [np.asarray(Picture.open(path)) for path in sorted((a.scenes / "images").iterdir())]

    def ours(mode):
        settings = {"model": a.bundle.resolve(), "mode": mode, "cameras": "c", "backend": "cpu"}
        program = [NODE, "--ros-args", *(word for key, value in settings.items() for word in ("-p", f"{key}:={value}"))]
        return program, ("/sparse_refine/input/c/image", "/sparse_refine/output/c/label")

    def python(network, how):
        program = [sys.executable, ROOT / "scripts/bench_python_node.py", network, how]
        return program, ("/python_node/image", "/python_node/label")

    cases = {
        "sparse_refine_node, refined": ours("refined"),
        "sparse_refine_node, coarse": ours("coarse"),
        "rclpy + onnxruntime + numpy, coarse, labels repeated": python(a.bundle / "segmenter.onnx", "repeated"),
        "rclpy + onnxruntime + numpy, coarse, logits upsampled bilinearly": python(a.bundle / "segmenter.onnx", "bilinear"),
        "rclpy + onnxruntime + numpy, dense at 3840x2176": python(a.dense_bundle / "dense.onnx", "repeated"),
    }
    if not NODE.exists():
        print(f"left out: {NODE} is not there (make ros)", file=sys.stderr)
        cases = {name: case for name, case in cases.items() if str(NODE) not in map(str, case[0])}
    result = []
    for number, (name, (program, topics)) in enumerate(cases.items()):
        times = measure([str(word) for word in program], topics, pictures, a.frames, a.domain + number)
        result.append({"node": name, "p50_ms": round(statistics.median(times), 1), "max_ms": round(max(times), 1)})
    print(json.dumps(result))


if __name__ == "__main__":
    main()
