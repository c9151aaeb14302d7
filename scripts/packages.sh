# Sourced by the set-up scripts: system packages by apt, as root or through sudo.
say() { printf 'setup: %s\n' "$*" >&2; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else say "need root to run: $* (no sudo here; run it yourself and try again)"; return 1
    fi
}

apt_updated=
apt_install() {
    command -v apt-get >/dev/null || { say "no apt-get here; install these yourself: $*"; return 1; }
    if [ -z "$apt_updated" ]; then as_root apt-get update -qq >&2; apt_updated=1; fi
    say "installing $*"
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}
