"""Frames through the live node."""

import json
import struct
import subprocess
import time

import numpy as np
import pytest
from conftest import FULL, ROOT, SMALL, TOOL, diagnostics, image, picture, qos, stamp_ns
from rclpy.serialization import deserialize_message, serialize_message
from rosbags.rosbag2 import Reader, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from sparse_refine.msg import FrameTiming
from std_msgs.msg import String

LABEL = "/sparse_refine/output/front/label"
TIMING = "/sparse_refine/debug/front/timing"
INPUT = "/sparse_refine/input/front/image"


def labels_of(message) -> np.ndarray:
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width)


def strongest(pixels: np.ndarray) -> np.ndarray:
    return pixels.argmax(2).astype(np.uint8)


def test_8mp_frames_of_two_cameras_come_back_as_labels(peer, start):
    start(cameras="front,left", warm_up_size="3840x2160")
    got = {}
    for camera in ("front", "left"):
        got[camera] = peer.listen(Image, f"/sparse_refine/output/{camera}/label", qos(depth=2))
    out = {c: peer.publisher(Image, f"/sparse_refine/input/{c}/image", qos(False, 1)) for c in got}
    pixels = {c: picture(FULL, seed) for seed, c in enumerate(got)}
    sent = {camera: {} for camera in got}
    for n in range(3):
        for camera in got:
            message = image(pixels[camera], 1_700_000_000_123_456_789 + n * 100_000_007, f"{camera}_optical")
            sent[camera][stamp_ns(message)] = message.header
            out[camera].publish(message)
        peer.until(lambda: all(len(labels) > n for labels in got.values()), 30, f"labels of frame {n}")
    for camera, labels in got.items():
        for label in labels:
            assert label.header == sent[camera][stamp_ns(label)], "the header is the input's"
            assert (label.width, label.height, label.step, label.encoding) == (*FULL, FULL[0], "mono8")
            agreement = (labels_of(label) == strongest(pixels[camera])).mean()
            assert agreement > 0.9, f"{camera}: only {agreement:.3f} of the labels fit the image"


def test_live_labels_equal_replay_labels(peer, start, bundle, tmp_path):
    store = get_typestore(Stores.ROS2_JAZZY)
    frames = [image(picture(SMALL, seed), 10**18 + seed * 10**8) for seed in range(5)]
    with Writer(tmp_path / "bag", version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        types = store.types
        topic = bag.add_connection("/camera/front/image_raw", "sensor_msgs/msg/Image", typestore=store)
        for frame in frames:
            stamp = types["builtin_interfaces/msg/Time"](frame.header.stamp.sec, frame.header.stamp.nanosec)
            header = types["std_msgs/msg/Header"](stamp, frame.header.frame_id)
            data = np.frombuffer(frame.data, np.uint8)
            stored = types["sensor_msgs/msg/Image"](header, *SMALL[::-1], "rgb8", 0, frame.step, data)
            bag.write(topic, stamp_ns(frame), store.serialize_cdr(stored, "sensor_msgs/msg/Image"))
    command = [TOOL, "replay", tmp_path / "bag", "--model", bundle, "--out", tmp_path / "out", "--write-bag"]
    subprocess.run([*command, "--json"], check=True, stdout=subprocess.DEVNULL, timeout=60)
    replayed, costs = {}, []
    with Reader(tmp_path / "out/bag") as bag:
        timing = next(c for c in bag.connections if c.topic == TIMING)
        # The recording says by itself what its messages mean, and the hash is that of the definition.
        store.register(get_types_from_msg(timing.msgdef.data, timing.msgtype))
        assert timing.digest == store.hash_rihs01(timing.msgtype)
        for connection, _, raw in bag.messages():
            if connection.topic == LABEL:
                label = store.deserialize_cdr(raw, connection.msgtype)
                replayed[stamp_ns(label)] = label.data.tobytes()
            elif connection.topic == TIMING:
                costs.append((store.deserialize_cdr(raw, connection.msgtype), deserialize_message(bytes(raw), FrameTiming)))
    assert len(replayed) == len(costs) == len(frames)

    start(input__reliability="reliable")
    got = peer.listen(Image, LABEL)
    live = peer.listen(FrameTiming, TIMING)
    out = peer.publisher(Image, INPUT)
    for n, frame in enumerate(frames):
        out.publish(frame)
        peer.until(lambda: len(got) > n, 20, f"label {n}")
    assert {stamp_ns(label): bytes(label.data) for label in got} == replayed
    peer.until(lambda: len(live) == len(frames), 20, "every timing message")
    durations = {name for name in FrameTiming.get_fields_and_field_types() if name.endswith("_ms")}
    for now, (by_definition, then) in zip(live, costs):
        # ROS and the reader by the recording's own definition agree; but for durations, live and replayed do too.
        for name in FrameTiming.get_fields_and_field_types():
            if name not in durations | {"header", "reason"}:
                assert getattr(now, name) == getattr(then, name) == getattr(by_definition, name), name
        assert now.header == then.header and then.header.stamp.sec == by_definition.header.stamp.sec
        assert then.stages_ms == by_definition.stages_ms > 0
        assert then.latency_ms == pytest.approx(then.stages_ms + then.overhead_ms, rel=1e-3) and then.wait_ms == 0


def test_overload_drops_the_oldest_and_keeps_the_age_bounded(peer, start):
    # The shipped bundle on one thread takes several times what ROS takes to bring 25 MB; how long that is, is not the node's
    # doing.
    start(model=str(ROOT / "engines/streets"), warm_up_size="3840x2160", threads=1, max_fraction=0.05)
    timing = peer.listen(FrameTiming, TIMING)
    frame = bytearray(serialize_message(image(picture(FULL), 0)))
    out = peer.publisher(Image, INPUT, qos(False, 1))
    # As fast as this process can publish, until enough frames were labelled: several times what one thread can.
    sent = 0
    while len(timing) < 12:
        struct.pack_into("<iI", frame, 4, *divmod(time.time_ns(), 10**9))
        out.publish(bytes(frame))
        sent += 1
        peer.executor.spin_once(timeout_sec=0)

    def accounted():
        last = timing[-1]
        return last.received == last.sequence + last.overwritten + last.rejected

    peer.until(accounted, 20, "every input is accounted for")
    last = timing[-1]
    assert last.overwritten > 0, "the input was not faster than the node"
    assert last.rejected == 0 and last.received <= sent
    # A frame waits for at most the one before it. Each is compared with what it and that one took, so that a machine that
    # is slow for a while, with all that runs on it, changes both sides.
    work = [t.latency_ms - t.wait_ms for t in timing]
    ratios = [t.age_ms / max(two) for t, two in zip(timing[1:], zip(work, work[1:]))]
    print(f"sent {sent} received {last.received} labelled {last.sequence}; a frame takes {np.median(work):.0f} ms, age p99 "
          f"{np.percentile([t.age_ms for t in timing], 99):.0f} ms, at most {max(ratios):.2f} times a frame's time")
    assert np.percentile(ratios, 99) < 2.5, ratios


def test_malformed_images_are_counted_and_survived(peer, start):
    start(input__reliability="reliable")
    timing = peer.listen(FrameTiming, TIMING)
    reports = diagnostics(peer)
    out = peer.publisher(Image, INPUT)
    pixels = picture(SMALL)
    good = image(pixels, 10**9)
    broken = [
        image(pixels, 2 * 10**9, encoding="rgb17"),
        image(pixels, 3 * 10**9, data=good.data[:-1]),
        image(pixels, 4 * 10**9, width=0, height=0),
        image(pixels, 5 * 10**9, step=7),
        image(pixels, 6 * 10**9, width=2**31, height=2**31),
        image(pixels, 7 * 10**9, encoding="nv12", width=641),
    ]
    for n, message in enumerate(broken, 1):
        out.publish(message)
        peer.spin(0.2)  # the subscription holds one message: give the node the time to take it
        out.publish(good)
        peer.until(lambda: len(timing) >= n, 20, f"the good frame after broken frame {n}")
    last = timing[-1]
    assert (last.received, last.sequence, last.rejected) == (2 * len(broken), len(broken), len(broken))

    def told():
        return [values for name, _, _, values in reports if name.endswith("front") and values["rejected"] == "6"]

    values = peer.until(told, 10, "diagnostics with the reasons")[-1]
    reasons = {key.split(".")[1]: int(value) for key, value in values.items() if key.startswith("rejected.")}
    assert sum(reasons.values()) == len(broken)
    assert {"unknown_encoding", "short_data", "zero_size", "short_step"} <= set(reasons)


def test_encoding_and_size_change_mid_stream(peer, start):
    start(input__reliability="reliable")
    got = peer.listen(Image, LABEL)
    out = peer.publisher(Image, INPUT)
    stream = [(SMALL, "rgb8"), (SMALL, "bgr8"), ((1280, 720), "rgb8"), (SMALL, "rgba8"), ((1000, 600), "bgr8")]
    for n, (size, encoding) in enumerate(stream):
        pixels = picture(size, n)
        stored = pixels[:, :, ::-1] if encoding.startswith("bgr") else pixels
        if encoding == "rgba8":
            stored = np.dstack([pixels, np.full(pixels.shape[:2], 255, np.uint8)])
        out.publish(image(np.ascontiguousarray(stored), (n + 1) * 10**8, encoding=encoding))
        peer.until(lambda: len(got) > n, 20, f"label of {size} {encoding}")
        assert (got[n].width, got[n].height) == size
        assert (labels_of(got[n]) == strongest(pixels)).mean() > 0.9, f"{size} {encoding}"


def test_a_restarted_publisher_and_a_looping_recording(peer, start):
    start(input__reliability="reliable")
    timing = peer.listen(FrameTiming, TIMING)
    for loop in range(2):
        out = peer.publisher(Image, INPUT)
        for n in range(5):
            out.publish(image(picture(SMALL, n), 10**9 + n * 10**8))
            peer.until(lambda: len(timing) > loop * 5 + n, 20, f"frame {n} of loop {loop}")
        peer.node.destroy_publisher(out)
        peer.spin(0.5)
    assert timing[-1].sequence == 10 and timing[-1].time_jumps == 1


def test_gaps_in_the_input_are_counted(peer, start):
    start(input__reliability="reliable")
    timing = peer.listen(FrameTiming, TIMING)
    out = peer.publisher(Image, INPUT)
    pixels = picture(SMALL)
    for n, tick in enumerate([0, 1, 2, 3, 4, 7, 8]):
        out.publish(image(pixels, 10**9 + tick * 10**8))
        peer.until(lambda: len(timing) > n, 20, f"frame {n}")
    assert timing[-1].stamp_gaps == 2


def test_the_timing_message_is_complete(peer, start):
    start(input__reliability="reliable", time_budget_ms=5000.0)
    timing = peer.listen(FrameTiming, TIMING)
    out = peer.publisher(Image, INPUT)
    message = image(picture(SMALL), time.time_ns())
    out.publish(message)
    peer.until(lambda: timing, 20, "timing")
    t = timing[0]
    assert t.header == message.header
    assert (t.camera, t.sequence, t.state, t.mode, t.model) == ("front", 1, "NOMINAL", "refined", "tiny")
    assert (t.width, t.height, t.received, t.overwritten, t.rejected) == (*SMALL, 1, 0, 0)
    for name in ("segmenter", "refiner", "device", "reason"):
        assert getattr(t, name), name
    assert 0 < t.pixels_refined <= t.pixels_selected == t.pixels_refined + t.pixels_dropped
    stages = ("upload", "preprocess", "segment", "select", "refine", "fuse", "download")
    times = [getattr(t, f"{stage}_ms") for stage in stages]
    assert all(ms > 0 for ms in times) and t.stages_ms == pytest.approx(sum(times), rel=1e-3)
    assert t.latency_ms == pytest.approx(t.wait_ms + t.stages_ms + t.overhead_ms, rel=1e-3)
    assert 0 < t.publish_ms < t.latency_ms < t.age_ms + 1
    assert t.budget_ms == 5000


def test_extras_come_to_those_who_subscribe(peer, start):
    start(input__reliability="reliable")
    output = "/sparse_refine/output/front"
    got = {name: peer.listen(Image, f"{output}/{name}") for name in ("label", "color", "overlay", "entropy", "refined_mask")}
    compressed = peer.listen(CompressedImage, f"{output}/label/compressed")
    infos = peer.listen(CameraInfo, f"{output}/camera_info")
    timing = peer.listen(FrameTiming, TIMING)
    out = peer.publisher(Image, INPUT)
    info = CameraInfo(width=SMALL[0], height=SMALL[1], distortion_model="plumb_bob")
    info.header.frame_id = "camera_optical"
    peer.publisher(CameraInfo, "/sparse_refine/input/front/camera_info").publish(info)
    peer.spin(0.5)
    message = image(picture(SMALL), 42 * 10**9 + 7)
    out.publish(message)
    peer.until(lambda: all(got.values()) and compressed and infos and timing, 20, "every output")
    assert all(outputs[0].header == message.header for outputs in [*got.values(), compressed, infos])
    label = labels_of(got["label"][0])
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255]], np.uint8)
    shape = (*SMALL[::-1], 3)
    colour = np.frombuffer(got["color"][0].data, np.uint8).reshape(shape)
    assert np.array_equal(colour, colours[label])
    overlay = np.frombuffer(got["overlay"][0].data, np.uint8).reshape(shape)
    assert np.array_equal(overlay, ((picture(SMALL).astype(int) + colours[label]) // 2).astype(np.uint8))
    mask = labels_of(got["refined_mask"][0])
    assert (mask == 255).sum() == timing[0].pixels_refined and set(np.unique(mask)) == {0, 255}
    assert (got["entropy"][0].width, got["entropy"][0].height) == (480, 272)
    import io

    from PIL import Image as Picture

    assert compressed[0].format.startswith("mono8; png")
    assert np.array_equal(np.array(Picture.open(io.BytesIO(bytes(compressed[0].data)))), label)
    assert infos[0].distortion_model == "plumb_bob"


def test_compressed_input(peer, start):
    import io

    from PIL import Image as Picture

    start(input__transport="compressed", input__reliability="reliable")
    got = peer.listen(Image, LABEL)
    timing = peer.listen(FrameTiming, TIMING)
    out = peer.publisher(CompressedImage, INPUT + "/compressed")
    pixels = picture(SMALL)
    file = io.BytesIO()
    Picture.fromarray(pixels).save(file, "PNG")
    message = CompressedImage(header=image(pixels, 5 * 10**9).header, format="png", data=file.getvalue())
    out.publish(CompressedImage(header=message.header, format="jpeg", data=b"\xff\xd8 torn"))
    peer.spin(0.3)
    out.publish(message)
    peer.until(lambda: got and timing, 20, "label")
    assert (labels_of(got[0]) == strongest(pixels)).mean() > 0.9
    assert timing[0].rejected == 1 and timing[0].decode_ms > 0


def test_a_late_joiner_gets_the_classes(peer, start):
    start()
    peer.publisher(Image, INPUT)
    got = peer.listen(String, "/sparse_refine/output/front/label_info_json", qos(latched=True))
    peer.until(lambda: got, 20, "class information")
    info = json.loads(got[0].data)
    assert info["unlabelled"] == 255
    assert [entry["name"] for entry in info["classes"]] == ["red", "green", "blue"]
    assert info["classes"][1] == {"id": 1, "name": "green", "colour": [0, 255, 0]}


def test_simulated_time_makes_ages(peer, start):
    from rosgraph_msgs.msg import Clock

    start(use_sim_time=True, input__reliability="reliable")
    timing = peer.listen(FrameTiming, TIMING)
    out = peer.publisher(Image, INPUT)
    clock = peer.publisher(Clock, "/clock")
    for sec in (100, 3):  # forward, then a loop
        now = Clock()
        now.clock.sec, now.clock.nanosec = sec, 500_000_000
        clock.publish(now)
        peer.spin(0.3)
        out.publish(image(picture(SMALL), sec * 10**9))
        count = len(timing)
        peer.until(lambda: len(timing) > count, 20, f"timing at {sec} s")
        assert timing[-1].age_ms == pytest.approx(500)
    assert timing[-1].time_jumps == 1


