//! Settings, from the environment, read once per process.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `CUEMU_KERNELS` | the kernel library made by build_kernels.sh | none |
//! | `CUEMU_SCHED` | `threads`, `lazy` or `prio` (see [`Sched`]) | threads |
//! | `CUEMU_SEED` | seed of every random choice | 1 |
//! | `CUEMU_ORDER` | order of threads and blocks: `random`, `forward`, `reverse` | random |
//! | `CUEMU_JITTER_US` | threads only: random delay before each stream operation | 0 |
//! | `CUEMU_POISON` | byte that fills fresh memory | 255 (NaN, -1) |
//! | `CUEMU_MALLOC` | 1: plain heap in place of guard pages, for ASan | 0 |
//! | `CUEMU_MEMORY` | bytes of device memory | 8 GiB |
//! | `CUEMU_CAPABILITY` | compute capability times ten | 87 |
//! | `CUEMU_PROCESSORS` | multiprocessors; few make looping launches loop | 16 |
//! | `CUEMU_FAIL` | faults to inject, see [`crate::faults`] | none |
//! | `CUEMU_LOG` | 1: one line per kernel launch | 0 |

use std::ffi::c_int;
use std::sync::OnceLock;

#[derive(Clone, Copy, PartialEq)]
pub enum Sched {
    /// One thread per stream: truly concurrent, not repeatable.
    Threads,
    /// Nothing runs until the host waits; then only what that wait needs. One thread, repeatable.
    Lazy,
    /// Nothing runs until the host waits; then always the runnable stream of highest random priority. Repeatable.
    Prio,
}

pub struct Config {
    pub sched: Sched,
    pub seed: u64,
    pub order: c_int,
    pub jitter_us: u64,
    pub poison: u8,
    pub malloc: bool,
    pub log: bool,
    pub memory: usize,
    pub capability: c_int,
    pub processors: c_int,
}

pub fn config() -> &'static Config {
    static CONFIG: OnceLock<Config> = OnceLock::new();
    CONFIG.get_or_init(|| Config {
        sched: match text("CUEMU_SCHED").as_deref() {
            Some("lazy") => Sched::Lazy,
            Some("prio") => Sched::Prio,
            _ => Sched::Threads,
        },
        seed: number("CUEMU_SEED", 1),
        order: match text("CUEMU_ORDER").as_deref() {
            Some("forward") => 0,
            Some("reverse") => 1,
            _ => 2,
        },
        jitter_us: number("CUEMU_JITTER_US", 0),
        poison: number("CUEMU_POISON", 0xff) as u8,
        malloc: number("CUEMU_MALLOC", 0) != 0,
        log: number("CUEMU_LOG", 0) != 0,
        memory: number("CUEMU_MEMORY", 8 << 30) as usize,
        capability: number("CUEMU_CAPABILITY", 87) as c_int,
        processors: number("CUEMU_PROCESSORS", 16) as c_int,
    })
}

pub(crate) fn text(key: &str) -> Option<String> {
    std::env::var(key).ok()
}

fn number(key: &str, default: u64) -> u64 {
    text(key).and_then(|v| v.parse().ok()).unwrap_or(default)
}
