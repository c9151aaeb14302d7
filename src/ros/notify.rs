//! systemd's service notification: `READY=1`, `STATUS=…`, `WATCHDOG=1` to the socket in `NOTIFY_SOCKET` (sd_notify(3)).

use std::ffi::OsStr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::{Duration, Instant};

/// A connection to systemd, or to nobody where there is none.
pub(super) struct Notify {
    socket: Option<UnixDatagram>,
    /// Half of what systemd allows between two signs of life.
    interval: Option<Duration>,
    last: Instant,
}

impl Notify {
    /// As the environment says.
    pub(super) fn from_environment() -> Self {
        let own_watchdog =
            std::env::var("WATCHDOG_PID").map_or(true, |pid| pid.parse() == Ok(std::process::id()));
        let allowed_us = std::env::var("WATCHDOG_USEC").ok().and_then(|text| text.parse().ok());
        Self::new(
            std::env::var_os("NOTIFY_SOCKET").as_deref(),
            allowed_us.filter(|_| own_watchdog).map(Duration::from_micros),
        )
    }

    fn new(address: Option<&OsStr>, allowed: Option<Duration>) -> Self {
        let socket = address.and_then(|address| {
            // A name that begins with @ is in the abstract namespace.
            let address = match address.as_bytes() {
                [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
                _ => SocketAddr::from_pathname(address),
            };
            let socket = UnixDatagram::unbound().ok()?;
            socket.connect_addr(&address.ok()?).ok()?;
            Some(socket)
        });
        Self { socket, interval: allowed.map(|allowed| allowed / 2), last: Instant::now() }
    }

    /// Tells systemd; a supervisor that does not listen is no reason to stop.
    pub(super) fn send(&self, text: &str) {
        if let Some(socket) = &self.socket {
            let _ = socket.send(text.as_bytes());
        }
    }

    /// A sign of life when one is due. To be called only while all is well.
    pub(super) fn alive(&mut self) {
        if self.interval.is_some_and(|interval| self.last.elapsed() >= interval) {
            self.send("WATCHDOG=1");
            self.last = Instant::now();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn signs_of_life_are_sent_no_more_often_than_needed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        systemd.set_nonblocking(true).unwrap();
        let mut notify = Notify::new(Some(path.as_os_str()), Some(Duration::from_millis(20)));
        let received = || {
            let mut text = [0; 64];
            systemd.recv(&mut text).map(|count| String::from_utf8_lossy(&text[..count]).into_owned()).ok()
        };
        notify.send("READY=1\nSTATUS=active");
        assert_eq!(received().unwrap(), "READY=1\nSTATUS=active");
        notify.alive();
        assert_eq!(received(), None);
        std::thread::sleep(Duration::from_millis(15));
        notify.alive();
        notify.alive();
        assert_eq!(received().unwrap(), "WATCHDOG=1");
        assert_eq!(received(), None);
    }

    #[test]
    fn without_systemd_nothing_happens() {
        let mut notify = Notify::new(None, None);
        notify.send("READY=1");
        notify.alive();
        Notify::new(Some(OsStr::new("no/such/socket")), None).send("READY=1");
    }
}
