"""What the node does when its device fails. The build under test has the feature `fault-injection`; frames are counted
from the warm-up frame on, which is the first."""

import signal
import socket
import time

import pytest
from conftest import SMALL, diagnostics, image, picture
from sensor_msgs.msg import Image
from sparse_refine.msg import FrameTiming

INPUT = "/sparse_refine/input/front/image"
TIMING = "/sparse_refine/debug/front/timing"


def test_a_lost_device_ends_the_node_with_status_5(peer, start):
    node = start(environment={"SPARSE_REFINE_FAULT": "lost:3"}, input__reliability="reliable")
    timing = peer.listen(FrameTiming, TIMING)
    out = peer.publisher(Image, INPUT)
    out.publish(image(picture(SMALL), 10**9))
    peer.until(lambda: timing, 20, "the frame before")
    out.publish(image(picture(SMALL), 2 * 10**9))
    assert node.wait() == 5
    said = [line for line in node.text().splitlines() if line.startswith("sparse_refine_node: ")]
    assert len(said) == 1 and "the device was lost in stage upload" in said[0], node.text()


@pytest.mark.parametrize(("fault", "words"), [("lost:1", "device was lost"), ("panic:1", "a thread of the engine died")])
def test_a_device_that_fails_the_warm_up_never_becomes_ready(start, tmp_path, fault, words):
    path = str(tmp_path / "notify")
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    systemd.bind(path)
    node = start(environment={"SPARSE_REFINE_FAULT": fault, "NOTIFY_SOCKET": path})
    assert node.wait() == 5 and words in node.text()
    told = []
    while True:
        try:
            told.append(systemd.recv(1000))
        except BlockingIOError:
            break
    assert any(text.startswith(b"STATUS=") for text in told) and not any(b"READY=1" in text for text in told)


def test_a_hanging_device_is_reported_and_starves_the_watchdog(peer, start, tmp_path):
    path = str(tmp_path / "notify")
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
    systemd.bind(path)

    def signs() -> int:
        count = 0
        while True:
            try:
                count += b"WATCHDOG=1" in systemd.recv(1000)
            except BlockingIOError:
                return count

    environment = {"SPARSE_REFINE_FAULT": "hang:2", "NOTIFY_SOCKET": path, "WATCHDOG_USEC": "200000"}
    limits = {"max_age_ms": 300.0, "diagnostics.max_acceptable_consecutive_delay_ms": 600.0}
    node = start(environment=environment, input__reliability="reliable", **limits)
    reports = diagnostics(peer)
    out = peer.publisher(Image, INPUT)
    peer.until(signs, 20, "signs of life before the fault")
    pixels = picture(SMALL)

    def told():
        out.publish(image(pixels, time.time_ns()))
        peer.spin(0.1)
        return [r for r in reports if r[0].endswith("front") and r[1] == 2 and "none is finished" in r[2]]

    values = peer.until(told, 30, "an error on /diagnostics")[-1][3]
    assert int(values["labelled"]) == 0 and int(values["received"]) > 0
    peer.spin(0.5)
    signs()
    before = len(reports)
    peer.spin(1.0)
    assert signs() == 0, "no sign of life while a frame hangs"
    assert len(reports) > before, "diagnostics go on"
    # The first signal waits for the frame, though not for ever.
    node.process.send_signal(signal.SIGTERM)
    assert node.wait(60) == 5 and "the device hangs" in node.text()
