"""Just enough of `launch` and `launch_ros` to perform this package's launch files where ROS 2 comes from PyPI, which has
neither. Names, arguments and order of evaluation are those of the originals; what is not used here is not there.

`perform` answers with the processes that the file would start."""

import os
import re
import sys
import tempfile
import types
import xml.etree.ElementTree as ElementTree
from dataclasses import dataclass, field
from pathlib import Path

import yaml
from ament_index_python.packages import get_package_share_directory


@dataclass
class Context:
    configurations: dict
    environment: dict
    processes: list = field(default_factory=list)


@dataclass
class Process:
    """What would be started, with the delay in seconds."""

    package: "str | None"
    executable: str
    arguments: list
    environment: dict
    after_s: float = 0.0
    respawn: bool = False


class LaunchConfiguration:
    def __init__(self, name):
        self.name = name

    def perform(self, context):
        return context.configurations[self.name]


def text(value, context):
    return value.perform(context) if isinstance(value, LaunchConfiguration) else value


class LaunchDescription:
    def __init__(self, entities):
        self.entities = entities

    def execute(self, context):
        for entity in self.entities:
            entity.execute(context)


class DeclareLaunchArgument:
    def __init__(self, name, *, default_value=None, description):
        self.name, self.default_value, self.description = name, default_value, description

    def execute(self, context):
        assert self.description, self.name
        if self.name not in context.configurations:
            if self.default_value is None:
                raise RuntimeError(f"Required launch argument '{self.name}' was not provided")
            context.configurations[self.name] = text(self.default_value, context)


class SetEnvironmentVariable:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def execute(self, context):
        context.environment[self.name] = text(self.value, context)


class OpaqueFunction:
    def __init__(self, *, function):
        self.function = function

    def execute(self, context):
        for entity in self.function(context) or []:
            entity.execute(context)


class PythonLaunchDescriptionSource:
    def __init__(self, path):
        self.path = path


class IncludeLaunchDescription:
    def __init__(self, source, *, launch_arguments):
        self.source, self.launch_arguments = source, launch_arguments

    def execute(self, context):
        context.configurations |= {name: text(value, context) for name, value in self.launch_arguments}
        load(Path(self.source.path)).execute(context)


class TimerAction:
    def __init__(self, *, period, actions):
        self.period, self.actions = period, actions

    def execute(self, context):
        before = len(context.processes)
        for action in self.actions:
            action.execute(context)
        for process in context.processes[before:]:
            process.after_s += float(text(self.period, context))


class ExecuteProcess:
    def __init__(self, *, cmd, output):
        assert output == "screen"
        self.cmd = cmd

    def execute(self, context):
        executable, *arguments = [text(part, context) for part in self.cmd]
        context.processes.append(Process(None, executable, arguments, dict(context.environment)))


class OnProcessExit:
    def __init__(self, *, target_action, on_exit):
        self.target_action, self.on_exit = target_action, on_exit


class RegisterEventHandler:
    def __init__(self, handler):
        self.handler = handler

    def execute(self, context):
        assert self.handler.target_action and self.handler.on_exit


class Shutdown:
    def __init__(self, *, reason):
        self.reason = reason


class Node:
    def __init__(self, *, package, executable, name, namespace="", parameters=(), remappings=(), output,
                 emulate_tty=False, respawn=False, respawn_delay=0.0):
        assert output == "screen"
        self.package, self.executable, self.name, self.namespace = package, executable, name, namespace
        self.parameters, self.remappings, self.respawn = parameters, remappings, respawn

    def execute(self, context):
        arguments = ["--ros-args", "-r", f"__node:={self.name}"]
        if self.namespace:
            arguments += ["-r", f"__ns:=/{self.namespace.strip('/')}"]
        for parameters in self.parameters:
            if isinstance(parameters, dict):  # the original writes a file too
                file = tempfile.NamedTemporaryFile("w", suffix=".yaml", delete=False)
                with file:
                    yaml.safe_dump({"/**": {"ros__parameters": parameters}}, file)
                parameters = file.name
            arguments += ["--params-file", parameters]
        for old, new in self.remappings:
            arguments += ["-r", f"{old}:={new}"]
        process = Process(self.package, self.executable, arguments, dict(context.environment), respawn=self.respawn)
        context.processes.append(process)


def modules() -> dict:
    """The names as the originals export them."""
    contents = {
        "launch": [LaunchDescription],
        "launch.actions": [DeclareLaunchArgument, ExecuteProcess, IncludeLaunchDescription, OpaqueFunction,
                           RegisterEventHandler, SetEnvironmentVariable, Shutdown, TimerAction],
        "launch.event_handlers": [OnProcessExit],
        "launch.launch_description_sources": [PythonLaunchDescriptionSource],
        "launch.substitutions": [LaunchConfiguration],
        "launch_ros": [],
        "launch_ros.actions": [Node],
    }
    made = {}
    for name, classes in contents.items():
        made[name] = types.ModuleType(name)
        for one in classes:
            setattr(made[name], one.__name__, one)
    return made


def substituted(value: str, context: Context) -> str:
    """Performs `$(name arguments)`, innermost first, as the XML front end does."""
    innermost = re.compile(r"\$\(([\w-]+)((?: [^ ()$]+)*)\)")

    def perform(found):
        kind, arguments = found[1], found[2].split()
        if kind == "var":
            return context.configurations[arguments[0]]
        if kind == "env":
            return os.environ.get(*arguments) if len(arguments) == 2 else os.environ[arguments[0]]
        if kind == "find-pkg-share":
            return get_package_share_directory(arguments[0])
        raise ValueError(f"no substitution {kind}")

    while innermost.search(value):
        value = innermost.sub(perform, value)
    assert "$(" not in value, value
    return value


class XmlDescription:
    def __init__(self, path: Path):
        self.root = ElementTree.parse(path).getroot()

    def execute(self, context):
        assert self.root.tag == "launch"
        for element in self.root:
            get = {key: substituted(value, context) for key, value in element.attrib.items() if key != "default"}
            if element.tag == "arg":
                default = element.get("default")
                default = None if default is None else substituted(default, context)
                DeclareLaunchArgument(get["name"], default_value=default, description=get["description"]).execute(context)
            elif element.tag == "set_env":
                SetEnvironmentVariable(get["name"], get["value"]).execute(context)
            elif element.tag == "node":
                self.node(element, get, context)
            else:
                raise ValueError(f"no action <{element.tag}>")

    @staticmethod
    def node(element, get, context):
        parameters, remappings = [], []
        for child in element:
            of = {key: substituted(value, context) for key, value in child.attrib.items()}
            if child.tag == "param" and "from" in of:
                parameters.append(of["from"])
            elif child.tag == "param":
                parameters.append({of["name"]: yaml.safe_load(of["value"])})
            else:
                assert child.tag == "remap", child.tag
                remappings.append((of["from"], of["to"]))
        Node(package=get["pkg"], executable=get["exec"], name=get["name"], parameters=parameters, remappings=remappings,
             output=get["output"]).execute(context)


def load(path: Path):
    if path.suffix == ".xml":
        return XmlDescription(path)
    stand_ins = modules()
    before = {name: sys.modules.get(name) for name in stand_ins}
    sys.modules.update(stand_ins)
    try:
        made = types.ModuleType(path.stem)
        exec(compile(path.read_text(), path, "exec"), made.__dict__)
        return made.generate_launch_description()
    finally:
        for name, module in before.items():
            if module is None:
                del sys.modules[name]
            else:
                sys.modules[name] = module


def perform(file: str, **arguments) -> "list[Process]":
    """The processes of an installed launch file with these arguments."""
    context = Context(dict(arguments), {})
    load(Path(get_package_share_directory("sparse_refine")) / "launch" / file).execute(context)
    return context.processes
