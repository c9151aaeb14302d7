"""The installed tree, as ROS's own tools look for it: index markers, lib/, share/."""

import os
import subprocess
from pathlib import Path

import pytest
from ament_index_python.packages import get_package_prefix, get_package_share_directory, get_packages_with_prefixes
from ament_index_python.resources import get_resource
from conftest import INSTALL, PROGRAMS, ROOT, SOURCED

INSTALLED = PROGRAMS == INSTALL / "lib/sparse_refine"


def test_the_index_names_package_and_message():
    assert Path(get_package_prefix("sparse_refine")) == INSTALL
    assert Path(get_packages_with_prefixes()["sparse_refine"]) == INSTALL
    messages, _ = get_resource("rosidl_interfaces", "sparse_refine")
    assert "msg/FrameTiming.msg" in messages.split()
    dependencies, _ = get_resource("package_run_dependencies", "sparse_refine")
    assert {"sensor_msgs", "std_msgs", "diagnostic_msgs", "launch_ros"} <= set(dependencies.split(";"))


def test_share_has_all_that_is_shipped():
    share = Path(get_package_share_directory("sparse_refine"))
    for folder in ("launch", "config", "schema", "engines"):
        for file in (ROOT / folder).rglob("*"):
            if file.is_file():
                installed = share / file.relative_to(ROOT)
                assert installed.read_bytes() == file.read_bytes(), installed
    assert (share / "package.xml").read_bytes() == (ROOT / "package.xml").read_bytes()
    assert (share / "msg/FrameTiming.msg").exists() and (share / "local_setup.bash").exists()
    assert not list(share.rglob("__pycache__"))


@pytest.mark.skipif(not INSTALLED, reason="these programs are not the installed ones")
def test_programs_run_without_any_environment():
    # As `ros2 run` looks for them: executable files in lib/PACKAGE.
    programs = {path.name for path in PROGRAMS.iterdir() if os.access(path, os.X_OK)}
    assert programs == {"sparse_refine", "sparse_refine_node"}
    for program in programs:
        ran = subprocess.run([PROGRAMS / program, "--version"], env=SOURCED, capture_output=True, text=True, timeout=30)
        assert ran.returncode == 0 and ran.stdout.startswith(program + " "), ran.stderr


@pytest.mark.skipif(not INSTALLED, reason="these programs are not the installed ones")
def test_the_installed_node_takes_no_faults():
    """The hook that the tests use is not in what is installed."""
    for program in ("sparse_refine", "sparse_refine_node"):
        assert b"SPARSE_REFINE_FAULT" not in (PROGRAMS / program).read_bytes()
