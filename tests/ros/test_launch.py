"""The installed launch files, performed by a stand-in for `launch`; what they would start is then really started."""

import os

import launch_stand_in
import pytest
from conftest import SMALL, Launched, image, picture
from sensor_msgs.msg import Image


def one_node(processes):
    nodes = [process for process in processes if process.package == "sparse_refine"]
    assert len(nodes) == 1 and nodes[0].executable == "sparse_refine_node"
    return nodes[0]


@pytest.fixture
def launched(domain, tmp_path):
    running = []

    def launched(process):
        running.append(Launched(domain, tmp_path / "launched.log", process.arguments, process.environment))
        return running[-1]

    yield launched
    for node in running:
        assert node.stop() == 0
        print(node.text())


def labels_come(peer, cameras: dict, prefix="/sparse_refine"):
    got = {name: peer.listen(Image, f"{prefix}/output/{name}/label") for name in cameras}
    for n, (name, topic) in enumerate(cameras.items()):
        out = peer.publisher(Image, topic)

        def labelled():
            out.publish(image(picture(SMALL, n), 10**9))
            peer.spin(0.2)
            return got[name]

        peer.until(labelled, 40, f"a label of {name} from {topic}")


def parameters(bundle, tmp_path):
    """A parameter file for a quick start, given as users give theirs."""
    path = tmp_path / "quick.param.yaml"
    path.write_text("/**:\n  ros__parameters:\n    warm_up_size: 640x360\n")
    return {"model": str(bundle), "sparse_refine_param_path": str(path)}


def test_several_cameras_of_the_python_file(peer, bundle, tmp_path, launched):
    topics = {"front": "/camera/a/image", "left": "/camera/b/image"}
    node = one_node(launch_stand_in.perform(
        "sparse_refine.launch.py", cameras="front, left", image_topics=",".join(topics.values()), namespace="car",
        **parameters(bundle, tmp_path)))
    assert node.environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"]
    assert not node.respawn
    launched(node)
    labels_come(peer, topics, "/car/sparse_refine")


def test_topics_and_profile_of_the_python_file_by_default(monkeypatch):
    monkeypatch.delenv("FASTRTPS_DEFAULT_PROFILES_FILE")
    node = one_node(launch_stand_in.perform("sparse_refine.launch.py", cameras="left", respawn="true"))
    assert node.environment["FASTRTPS_DEFAULT_PROFILES_FILE"].endswith("share/sparse_refine/config/fastdds_8mp.xml")
    assert os.path.exists(node.environment["FASTRTPS_DEFAULT_PROFILES_FILE"]) and node.respawn
    rules = [a for flag, a in zip(node.arguments, node.arguments[1:]) if flag == "-r"]
    assert "~/input/left/image:=/camera/left/image_raw" in rules
    assert "~/input/left/camera_info:=/camera/left/camera_info" in rules
    assert any(a.endswith("share/sparse_refine/config/sparse_refine.param.yaml") for a in node.arguments)
    with pytest.raises(RuntimeError, match="names 1 topics for 2 cameras"):
        launch_stand_in.perform("sparse_refine.launch.py", cameras="a,b", image_topics="/x")


def test_the_xml_file(peer, bundle, tmp_path, launched):
    node = one_node(launch_stand_in.perform(
        "sparse_refine.launch.xml", camera="rear", image_topic="/camera/rear/image", **parameters(bundle, tmp_path)))
    assert node.environment["FASTRTPS_DEFAULT_PROFILES_FILE"] == os.environ["FASTRTPS_DEFAULT_PROFILES_FILE"]
    launched(node)
    labels_come(peer, {"rear": "/camera/rear/image"})


def test_the_replay_file_plays_with_its_clock_once_the_node_is_there():
    processes = launch_stand_in.perform("replay.launch.py", bag="/my/bag", rate="0.5", image_topics="/camera/x/image")
    node = one_node(processes)
    files = [a for flag, a in zip(node.arguments, node.arguments[1:]) if flag == "--params-file"]
    assert "use_sim_time: true" in open(files[-1]).read()
    assert "~/input/front/image:=/camera/x/image" in node.arguments
    player = next(process for process in processes if process.package is None)
    assert [player.executable, *player.arguments] == ["ros2", "bag", "play", "/my/bag", "--clock", "--rate", "0.5"]
    assert player.after_s == 8.0
    with pytest.raises(RuntimeError, match="'bag' was not provided"):
        launch_stand_in.perform("replay.launch.py")
