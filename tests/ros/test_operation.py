"""Starting, stopping, states, parameters and diagnostics of the node."""

import json
import signal
import socket
import statistics
import time

import pytest
import yaml
from conftest import ROOT, SMALL, TOOL, diagnostics, image, picture, qos
from lifecycle_msgs.msg import TransitionEvent
from lifecycle_msgs.srv import ChangeState, GetAvailableTransitions, GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import DescribeParameters, GetParameters, ListParameters, SetParameters
from sensor_msgs.msg import Image
from sparse_refine.msg import FrameTiming

NODE = "/sparse_refine"
INPUT = "/sparse_refine/input/front/image"
LABEL = "/sparse_refine/output/front/label"
TIMING = "/sparse_refine/debug/front/timing"


def set_parameter(peer, name, value):
    kinds = {bool: ("BOOL", "bool_value"), int: ("INTEGER", "integer_value"), float: ("DOUBLE", "double_value"),
             str: ("STRING", "string_value")}
    kind, attribute = kinds[type(value)]
    wrapped = ParameterValue(type=getattr(ParameterType, f"PARAMETER_{kind}"), **{attribute: value})
    request = SetParameters.Request(parameters=[Parameter(name=name, value=wrapped)])
    return peer.call(SetParameters, f"{NODE}/set_parameters", request).results[0]


def plain(value):
    return {1: value.bool_value, 2: value.integer_value, 3: value.double_value, 4: value.string_value}[value.type]


def change(peer, label):
    request = ChangeState.Request()
    request.transition.label = label
    return peer.call(ChangeState, f"{NODE}/change_state", request).success


def state(peer):
    return peer.call(GetState, f"{NODE}/get_state", GetState.Request()).current_state.label


def test_table_file_and_schema_say_the_same(peer, start):
    start()
    names = peer.call(ListParameters, f"{NODE}/list_parameters", ListParameters.Request()).result.names
    values = peer.call(GetParameters, f"{NODE}/get_parameters", GetParameters.Request(names=names)).values
    node = {name: plain(value) for name, value in zip(names, values)}
    described = peer.call(DescribeParameters, f"{NODE}/describe_parameters", DescribeParameters.Request(names=names))
    assert all(len(descriptor.description) > 10 for descriptor in described.descriptors)

    def flat(tree, prefix=""):
        for key, value in tree.items():
            if isinstance(value, dict):
                yield from flat(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    file = yaml.safe_load((ROOT / "config/sparse_refine.param.yaml").read_text())
    file = dict(flat(file["/**"]["ros__parameters"]))
    schema = json.loads((ROOT / "schema/sparse_refine.schema.json").read_text())

    def flat_schema(part, prefix=""):
        assert part["additionalProperties"] is False and set(part["required"]) == set(part["properties"])
        for key, value in part["properties"].items():
            if value["type"] == "object":
                yield from flat_schema(value, f"{prefix}{key}.")
            else:
                yield prefix + key, value

    ros = schema["properties"]["/**"]["properties"]["ros__parameters"]
    entries = dict(flat_schema(schema["definitions"]["sparse_refine"]))
    assert ros["$ref"] == "#/definitions/sparse_refine"
    assert {name: entry["default"] for name, entry in entries.items()} == file
    assert set(file) == set(node) - {"use_sim_time"}
    changed_by_the_test = {"model", "warm_up_size", "diagnostics.period_s"}
    for name, value in file.items():
        if name not in changed_by_the_test:
            assert node[name] == value and type(node[name]) is type(value), name
    # The node keeps to the ranges of the schema.
    for name in ("alpha", "time_budget_ms", "max_age_ms"):
        (low, high) = [(part["minimum"], part["maximum"]) for part in [entries[name], *entries[name].get("anyOf", [])]
                       if "minimum" in part][0]
        assert set_parameter(peer, name, float(high)).successful and set_parameter(peer, name, float(low)).successful
        assert not set_parameter(peer, name, float(high) * 1.01).successful


@pytest.mark.parametrize(
    ("parameters", "words"),
    [
        ({"alpha": 11.0}, ["alpha", "11", "0 to 10"]),
        ({"alhpa": 0.2}, ["no parameter `alhpa`", "alpha"]),
        ({"slots": "two"}, ["slots", "`two`"]),
        ({"cameras": "Front"}, ["cameras", "`Front`"]),
        ({"mode": "dense"}, ["mode", "refined, coarse"]),
    ],
)
def test_wrong_parameters_are_refused_at_start(start, parameters, words):
    node = start(**parameters)
    assert node.wait() == 2
    assert all(word in node.text() for word in words), node.text()


def test_exit_codes_tell_model_and_backend_apart(start):
    node = start(model="/no/such/bundle")
    assert node.wait() == 3 and "/no/such/bundle" in node.text()
    node = start(backend="cuda")
    assert node.wait() == 4 and "cuda" in node.text()
    node = start(remap={"not a name": "x"})
    assert node.wait() == 2


def test_the_subcommand_is_the_same_node(peer, start):
    node = start(program=(TOOL, "node"), input__reliability="reliable")
    got = peer.listen(Image, LABEL)
    peer.publisher(Image, INPUT).publish(image(picture(SMALL), 10**9))
    peer.until(lambda: got, 20, "a label")
    assert node.stop() == 0
    refused = start(program=(TOOL, "node"), alpha=11.0)
    assert refused.wait() == 2 and "0 to 10" in refused.text()


def test_live_parameters_change_and_others_are_refused_with_a_reason(peer, start):
    start(input__reliability="reliable")
    timing = peer.listen(FrameTiming, TIMING)
    out = peer.publisher(Image, INPUT)

    def frame():
        count = len(timing)
        out.publish(image(picture(SMALL), time.time_ns()))
        peer.until(lambda: len(timing) > count, 20, "timing")
        return timing[-1]

    before = frame()
    assert before.pixels_selected > 0 and before.budget_ms == 0
    assert set_parameter(peer, "alpha", 10.0).successful
    peer.spin(0.2)
    assert frame().pixels_selected == 0, "no entropy of 3 classes exceeds 10 nats"
    assert set_parameter(peer, "alpha", -1.0).successful
    assert set_parameter(peer, "time_budget_ms", 1.0).successful
    peer.spin(0.2)
    tight = frame()
    assert tight.budget_ms == 1 and tight.pixels_selected == before.pixels_selected
    assert tight.pixels_refined < before.pixels_refined
    for name, value, words in [
        ("alpha", 10.5, "0 to 10"),
        ("mode", "coarse", "clean up first"),
        ("nonsense", 1, "no parameter `nonsense`"),
        ("alpha", 1, "the integer 1"),
    ]:
        result = set_parameter(peer, name, value)
        assert not result.successful and words in result.reason, result.reason


def test_a_budget_that_leaves_nothing_gives_coarse_labels_and_says_so(peer, start):
    start(input__reliability="reliable", time_budget_ms=1.0)
    timing = peer.listen(FrameTiming, TIMING)
    got = peer.listen(Image, LABEL)
    reports = diagnostics(peer)
    out = peer.publisher(Image, INPUT)
    pixels = picture((1920, 1080))

    def coarse():
        out.publish(image(pixels, time.time_ns()))
        peer.spin(0.1)
        return timing and timing[-1].state == "COARSE_ONLY"

    peer.until(coarse, 20, "a frame without refinement")
    assert timing[-1].pixels_refined == 0 and timing[-1].pixels_dropped > 0
    peer.until(lambda: got, 20, "its label")
    assert (got[-1].width, got[-1].height) == (1920, 1080)

    def told():
        coarse()
        return [r for r in reports if r[0].endswith("front") and r[1] == 1 and r[3]["mode"] == "COARSE_ONLY"]

    peer.until(told, 20, "a warning")


def test_lifecycle(peer, start):
    node = start(autostart=False, input__reliability="reliable")
    events = peer.listen(TransitionEvent, f"{NODE}/transition_event")
    assert state(peer) == "unconfigured"
    out = peer.publisher(Image, INPUT, wait=False)
    assert not change(peer, "activate"), "not before configure"
    assert state(peer) == "unconfigured"
    assert set_parameter(peer, "model", "/no/such/bundle").successful
    assert not change(peer, "configure") and state(peer) == "unconfigured"
    assert "/no/such/bundle" in node.text()
    bundle = node.process.args[node.process.args.index("-p") + 1].split(":=")[1]
    assert set_parameter(peer, "model", bundle).successful
    assert change(peer, "configure") and state(peer) == "inactive"
    assert out.get_subscription_count() == 0
    request = GetAvailableTransitions.Request()
    possible = peer.call(GetAvailableTransitions, f"{NODE}/get_available_transitions", request).available_transitions
    assert {t.transition.label for t in possible} == {"cleanup", "activate", "shutdown"}
    got = peer.listen(Image, LABEL)
    for _ in range(2):
        assert change(peer, "activate") and state(peer) == "active"
        peer.until(lambda: out.get_subscription_count() > 0, 10, "the subscription")
        peer.spin(0.5)
        count = len(got)
        out.publish(image(picture(SMALL), 10**9))
        peer.until(lambda: len(got) > count, 20, "a label")
        assert change(peer, "deactivate") and state(peer) == "inactive"
        count = len(got)
        out.publish(image(picture(SMALL), 10**9))
        peer.spin(0.5)
        assert len(got) == count, "an inactive node publishes nothing"
    assert change(peer, "cleanup") and state(peer) == "unconfigured"
    assert change(peer, "configure") and change(peer, "shutdown")
    assert node.wait() == 0
    goals = [event.goal_state.label for event in events]
    assert goals[:6] == ["configuring", "unconfigured", "configuring", "inactive", "activating", "active"]
    assert goals[-1] == "finalized"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_signals_end_it_cleanly(peer, start, how):
    node = start()
    out = peer.publisher(Image, INPUT, qos(False, 1))
    out.publish(image(picture((1920, 1080)), 10**9))
    assert node.stop(how) == 0
    assert "panicked" not in node.text()


def test_systemd_is_told(start, tmp_path):
    path = str(tmp_path / "notify")
    systemd = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    systemd.bind(path)
    systemd.settimeout(100)
    allowed_s = 1.0
    node = start(environment={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": str(int(allowed_s * 1e6))})
    told, times = [], []
    while told.count("WATCHDOG=1") < 7:
        told.append(systemd.recv(1000).decode())
        times.append(time.monotonic())
    ready = told.index("READY=1")
    assert "STATUS=active" in told[:ready], "ready only after warm-up"
    signs = [at for text, at in zip(told, times) if text == "WATCHDOG=1"]
    # The median, since one gap may be the machine's.
    assert statistics.median(b - a for a, b in zip(signs, signs[1:])) < allowed_s
    assert node.stop() == 0


def test_diagnostics_explain_silence(peer, start):
    start(input__reliability="reliable", remap={"~/input/front/image": "/camera/front/image_raw"}, max_age_ms=300.0)
    reports = diagnostics(peer)

    def said(words, level):
        found = [r for r in reports if r[0] == "sparse_refine: camera front" and words in r[2] and r[1] in level]
        return found

    nobody = peer.until(lambda: said("nobody publishes /camera/front/image_raw", (2, 3)), 20, "nobody publishes")[-1]
    assert nobody[3]["is_processing_time_ms_in_expected_range"] == "n/a"
    assert nobody[3]["inference_time_ms"] == "n/a"
    peer.publisher(Image, "/camera/front/image_raw", qos(reliable=False, depth=1), wait=False)
    peer.until(lambda: said("QoS mismatch", (2, 3)), 20, "QoS mismatch")


def test_diagnostics_of_a_healthy_node(peer, start):
    start(input__reliability="reliable")
    reports = diagnostics(peer)
    out = peer.publisher(Image, INPUT)

    def healthy():
        out.publish(image(picture(SMALL), time.time_ns()))
        peer.spin(0.05)
        return [r for r in reports if r[0].endswith("front") and r[1] == 0 and r[3]["mode"] == "NOMINAL"]

    values = peer.until(healthy, 20, "an OK")[-1][3]
    assert values["is_processing_time_ms_in_expected_range"] == "true"
    assert values["is_consecutive_processing_delay_in_range"] == "true"
    for key in ("preprocess_time_ms", "inference_time_ms", "postprocess_time_ms", "input_rate_hz"):
        assert float(values[key]) > 0, key
    pipeline = [r for r in reports if r[0] == "sparse_refine: pipeline"][-1]
    assert pipeline[3]["model"] == "tiny" and pipeline[3]["state"] == "active"
    assert pipeline[3]["fastdds_profile"].endswith("fastdds_8mp.xml")
    peer.node.destroy_publisher(out)
    stopped = len(reports)
    peer.until(lambda: [r for r in reports[stopped:] if r[0].endswith("front") and r[1] == 3], 20, "STALE")
