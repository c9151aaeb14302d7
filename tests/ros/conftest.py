"""The node under test as a process of its own, and rclpy as the outside peer. Each test has its own domain."""

import array
import itertools
import os
import signal
import subprocess
import time
from pathlib import Path

import numpy as np
import pytest
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image
from std_msgs.msg import Header

import tiny_bundle

ROOT = Path(__file__).resolve().parents[2]
INSTALL = Path(os.environ.get("SPARSE_REFINE_ROS_INSTALL", ROOT / ".ros"))
PROGRAMS = Path(os.environ.get("SPARSE_REFINE_PROGRAMS", INSTALL / "lib/sparse_refine"))
NODE = PROGRAMS / "sparse_refine_node"
TOOL = PROGRAMS / "sparse_refine"
# A build with the wheels finds its libraries by itself. A sourced ROS 2 has set what a build against it needs.
SOURCED = {} if "SPARSE_REFINE_RPATH" in os.environ else {
    name: os.environ[name] for name in ("LD_LIBRARY_PATH", "AMENT_PREFIX_PATH", "RMW_IMPLEMENTATION") if name in os.environ
}
FULL = (3840, 2160)
SMALL = (640, 360)
TEST_LIMIT_S = 300
# Waits end when what they wait for has come; their limits are for a machine that is idle, times this for one that is not.
PATIENCE = 4
# A publisher sees its match before the subscriber does; best-effort messages sent in between are lost.
SETTLE_S = 0.5
DOMAINS = itertools.count(20 + os.getpid() % 60)


def qos(reliable: bool = True, depth: int = 10, latched: bool = False) -> QoSProfile:
    return QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )


def picture(size, seed=0) -> np.ndarray:
    """RGB of noise in 12 x 9 blocks: every class occurs, and edges are unsure."""
    width, height = size
    across, down = -(-width // 12), -(-height // 9)
    blocks = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), np.uint8)
    return np.repeat(np.repeat(blocks, down, 0), across, 1)[:height, :width].copy()


def image(pixels: np.ndarray, stamp_ns: int, frame_id="camera_optical", encoding="rgb8", **changes) -> Image:
    message = Image(header=Header(frame_id=frame_id), encoding=encoding)
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(stamp_ns, 10**9)
    message.height, message.width = pixels.shape[:2]
    message.step = pixels.strides[0]
    message.data = array.array("B", pixels.tobytes())
    for name, value in changes.items():
        setattr(message, name, value)
    return message


def stamp_ns(message) -> int:
    return message.header.stamp.sec * 10**9 + message.header.stamp.nanosec


class Peer:
    """An rclpy node in the test's domain that keeps every message it gets."""

    def __init__(self, domain: int):
        self.context = rclpy.Context()
        self.context.init(domain_id=domain)
        self.node = rclpy.create_node("peer", context=self.context)
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)

    def listen(self, kind, topic, profile=None, keep=lambda message: message) -> list:
        got = []
        self.node.create_subscription(kind, topic, lambda message: got.append(keep(message)), profile or qos())
        return got

    def publisher(self, kind, topic, profile=None, wait=True):
        made = self.node.create_publisher(kind, topic, profile or qos())
        if wait:
            self.until(lambda: made.get_subscription_count() > 0, 20, f"nobody subscribes to {topic}")
            self.spin(SETTLE_S)
        return made

    def spin(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self.executor.spin_once(timeout_sec=left)

    def until(self, condition, timeout: float, what="condition"):
        end = time.monotonic() + timeout * PATIENCE
        while not (value := condition()):
            assert time.monotonic() < end, f"not within {timeout} s: {what}"
            self.executor.spin_once(timeout_sec=0.05)
        return value

    def call(self, kind, name, request, timeout=20):
        client = self.node.create_client(kind, name)
        self.until(client.service_is_ready, timeout, f"service {name}")
        future = client.call_async(request)
        self.until(future.done, timeout, f"answer of {name}")
        return future.result()

    def close(self) -> None:
        self.executor.shutdown()
        self.node.destroy_node()
        self.context.try_shutdown()


class Launched:
    """The node's process."""

    def __init__(self, domain: int, log: Path, arguments, environment: dict, program=(NODE,)):
        # Only what a bare service would have: no library path, no ROS environment.
        environment = {
            "HOME": str(log.parent),
            "ROS_DOMAIN_ID": str(domain),
            "FASTRTPS_DEFAULT_PROFILES_FILE": str(ROOT / "config/fastdds_8mp.xml"),
            **SOURCED,
            **environment,
        }
        self.log = log
        command = [*map(str, program), *arguments]
        self.process = subprocess.Popen(command, env=environment, stderr=log.open("ab"), stdout=subprocess.DEVNULL)

    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def stop(self, how=signal.SIGTERM, timeout=60) -> int:
        if self.process.poll() is None:
            self.process.send_signal(how)
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise

    def wait(self, timeout=100) -> int:
        return self.process.wait(timeout)


class Running(Launched):
    """The node with parameters and remapped names."""

    def __init__(self, domain: int, log: Path, parameters: dict, remap: dict, environment: dict, program=(NODE,)):
        arguments = ["--ros-args"]
        for name, value in parameters.items():
            text = str(value).lower() if isinstance(value, bool) else str(value)
            arguments += ["-p", f"{name}:={text}"]
        for old, new in remap.items():
            arguments += ["-r", f"{old}:={new}"]
        super().__init__(domain, log, arguments, environment, program)


@pytest.fixture(autouse=True)
def time_limit():
    def expired(*_):
        raise TimeoutError(f"the test took longer than {TEST_LIMIT_S} s")

    signal.signal(signal.SIGALRM, expired)
    signal.alarm(TEST_LIMIT_S)
    yield
    signal.alarm(0)


@pytest.fixture(scope="session")
def bundle(tmp_path_factory) -> Path:
    return tiny_bundle.write(tmp_path_factory.mktemp("bundle") / "tiny")


@pytest.fixture
def domain() -> int:
    return next(DOMAINS)


@pytest.fixture
def peer(domain):
    peer = Peer(domain)
    yield peer
    peer.close()


@pytest.fixture
def start(domain, bundle, tmp_path):
    """Starts the node; all that a test started is stopped at its end, and its log shown if it failed."""
    running = []

    def start(remap=None, environment=None, program=(NODE,), **parameters) -> Running:
        parameters = {name.replace("__", "."): value for name, value in parameters.items()}
        parameters = {"model": bundle, "warm_up_size": "640x360", "diagnostics.period_s": 0.2, **parameters}
        log = tmp_path / f"node{len(running)}.log"
        running.append(Running(domain, log, parameters, remap or {}, environment or {}, program))
        return running[-1]

    yield start
    for node in running:
        node.stop()
        print(f"--- {node.log.name}\n{node.text()}")


def diagnostics(peer: Peer) -> list:
    """Statuses as (name, level, message, values), newest last."""
    got = []

    def keep(message):
        for status in message.status:
            values = {pair.key: pair.value for pair in status.values}
            got.append((status.name, int.from_bytes(status.level, "little"), status.message, values))

    peer.node.create_subscription(DiagnosticArray, "/diagnostics", keep, qos())
    return got
