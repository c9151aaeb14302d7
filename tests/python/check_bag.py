#!/usr/bin/env python3
"""The other side of `tests/bag_interop.rs`: rosbag2 as the package `rosbags` writes and reads it.

  check_bag.py write OUT   makes a bag of each storage and compression in OUT, one folder each
  check_bag.py check BAG   reads a bag that sparse_refine wrote and compares it with the same made-up frames

Both sides make up the same frames: pixel byte k of frame n of topic t is (31 n + 7 t + k) mod 251, stamps and sizes follow
the numbers below. Seed-free, so that nothing has to be handed over but files.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
from PIL import Image as PilImage
from rosbags.highlevel import AnyReader
from rosbags.rosbag2 import CompressionFormat, CompressionMode, Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

FRAMES = 6
WIDTH, HEIGHT = 40, 24
START_NS = 1_700_000_000_000_000_000
STEP_NS = 100_000_001
LOG_DELAY_NS = 5_000_000
IMAGE, LABEL, PNG, TEXT = "/camera/front/image_raw", "/camera/front/label", "/camera/rear/image_raw/compressed", "/note"
# Storage, compression, and whether rosbags can write the two together.
KINDS = [
    (storage, mode)
    for storage in ("mcap", "sqlite3")
    for mode in ("none", "file", "message", "storage")
    if (storage, mode) != ("sqlite3", "storage")
]

STORE = get_typestore(Stores.ROS2_JAZZY)
T = STORE.types


def pixels(topic: int, frame: int, channels: int) -> np.ndarray:
    count = WIDTH * HEIGHT * channels
    return ((31 * frame + 7 * topic + np.arange(count)) % 251).astype(np.uint8)


def header(frame: int) -> object:
    stamp = START_NS + frame * STEP_NS
    time = T["builtin_interfaces/msg/Time"](sec=stamp // 10**9, nanosec=stamp % 10**9)
    return T["std_msgs/msg/Header"](stamp=time, frame_id="camera_front")


def image(topic: int, frame: int, encoding: str) -> object:
    channels = 3 if encoding == "bgr8" else 1
    return T["sensor_msgs/msg/Image"](
        header=header(frame), height=HEIGHT, width=WIDTH, encoding=encoding, is_bigendian=0,
        step=WIDTH * channels, data=pixels(topic, frame, channels))


def png(topic: int, frame: int) -> object:
    file = io.BytesIO()
    PilImage.fromarray(pixels(topic, frame, 3).reshape(HEIGHT, WIDTH, 3)).save(file, "png")
    data = np.frombuffer(file.getvalue(), np.uint8)
    return T["sensor_msgs/msg/CompressedImage"](header=header(frame), format="rgb8; png compressed bgr8", data=data)


def messages(frame: int) -> list[tuple[str, object]]:
    return [
        (IMAGE, image(0, frame, "bgr8")),
        (LABEL, image(1, frame, "mono8")),
        (PNG, png(2, frame)),
        (TEXT, T["std_msgs/msg/String"](data=f"frame {frame}")),
    ]


def write(out: Path) -> None:
    for storage, mode in KINDS:
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        writer = Writer(out / f"{storage}_{mode}", version=9, storage_plugin=plugin)
        writer.set_compression(CompressionMode[mode.upper()], CompressionFormat.ZSTD)
        with writer:
            connections = {
                topic: writer.add_connection(topic, message.__msgtype__, typestore=STORE)
                for topic, message in messages(0)
            }
            for frame in range(FRAMES):
                for topic, message in messages(frame):
                    data = STORE.serialize_cdr(message, message.__msgtype__)
                    writer.write(connections[topic], START_NS + frame * STEP_NS + LOG_DELAY_NS, data)
        print(f"{storage}_{mode}")


def check(bag: Path) -> None:
    expected = [(topic, frame, message) for frame in range(FRAMES) for topic, message in messages(frame) if topic != PNG]
    with Reader(bag) as reader:
        assert reader.message_count == len(expected), reader.message_count
        assert reader.duration == (FRAMES - 1) * STEP_NS + 1, reader.duration
        assert reader.start_time == START_NS + LOG_DELAY_NS, reader.start_time
        assert reader.ros_distro == "jazzy", reader.ros_distro
        for connection in reader.connections:
            assert connection.digest == STORE.hash_rihs01(connection.msgtype), connection
            assert connection.msgcount == FRAMES, connection
            [qos] = connection.ext.offered_qos_profiles
            assert qos.history.name == "KEEP_LAST", qos
            wanted = {IMAGE: "BEST_EFFORT", LABEL: "RELIABLE", TEXT: "RELIABLE"}[connection.topic]
            assert qos.reliability.name == wanted, qos
            wanted = "TRANSIENT_LOCAL" if connection.topic == TEXT else "VOLATILE"
            assert qos.durability.name == wanted, qos
    # Types come from the definitions in the file.
    with AnyReader([bag]) as reader:
        for connection in reader.connections:
            own, _ = STORE.generate_msgdef(connection.msgtype, ros_version=2)
            assert connection.msgdef.data.split() == own.split(), connection.msgdef
        found = list(reader.messages())
        assert len(found) == len(expected)
        for (connection, time, data), (topic, frame, message) in zip(found, expected, strict=True):
            assert connection.topic == topic, (connection.topic, topic)
            assert time == START_NS + frame * STEP_NS + LOG_DELAY_NS, time
            read = reader.deserialize(data, connection.msgtype)
            if topic == TEXT:
                assert read.data == message.data, read
                continue
            assert read.header.stamp.sec == message.header.stamp.sec
            assert read.header.stamp.nanosec == message.header.stamp.nanosec
            assert read.header.frame_id == message.header.frame_id
            for field in ("height", "width", "encoding", "is_bigendian", "step"):
                assert getattr(read, field) == getattr(message, field), field
            assert np.array_equal(read.data, message.data), (topic, frame)
    print(f"{len(found)} messages agree")


if __name__ == "__main__":
    commands = {"write": write, "check": check}
    if len(sys.argv) != 3 or sys.argv[1] not in commands:
        sys.exit(__doc__)
    commands[sys.argv[1]](Path(sys.argv[2]))
