//! Streams and events, under one of three schedules (see [`Sched`]).

use std::collections::VecDeque;
use std::ffi::c_void;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Arc, Condvar, Mutex, OnceLock};
use std::time::{Duration, Instant};

use crate::config::{Sched, config};
use crate::graphs::{Capture, Node};
use crate::status::{OK, Status, sticky};
use crate::{lock, spread, tsan, xorshift};

/// Held by the host thread that runs operations under a deterministic schedule: streams advance on one thread at a time,
/// however many threads wait.
static TURN: Mutex<()> = Mutex::new(());

// ---- events ----

/// One record of an event. A wait or a query means the record that was last when it was called, whatever comes later.
pub struct Ticket {
    done: Mutex<Option<Instant>>,
    changed: Condvar,
    on: Arc<Stream>,
}

impl Ticket {
    fn new(on: Arc<Stream>) -> Arc<Self> {
        Arc::new(Ticket { done: Mutex::new(None), changed: Condvar::new(), on })
    }

    fn complete(&self) {
        let mut done = lock(&self.done);
        tsan::release(self);
        *done = Some(Instant::now());
        self.changed.notify_all();
    }

    pub fn completed_at(&self) -> Option<Instant> {
        *lock(&self.done)
    }

    pub fn is_done(&self) -> bool {
        self.completed_at().is_some()
    }

    fn wait(&self) {
        let mut done = lock(&self.done);
        while done.is_none() {
            done = self.changed.wait(done).unwrap_or_else(|e| e.into_inner());
        }
        tsan::acquire(self);
    }

    /// The host waits: under a deterministic schedule this is what makes streams run.
    pub fn host_wait(&self) {
        match config().sched {
            Sched::Threads => {}
            Sched::Lazy => {
                let _turn = lock(&TURN);
                self.on.run_until(&|| self.is_done());
            }
            Sched::Prio => {
                let _turn = lock(&TURN);
                run_by_priority(&|| self.is_done());
            }
        }
        self.wait();
    }

    /// The host asks without waiting: under a deterministic schedule, time passes by one operation.
    pub fn poll(&self) -> bool {
        let asked = std::cell::Cell::new(0);
        let once = || {
            asked.set(asked.get() + 1);
            asked.get() > 1 || self.is_done()
        };
        match config().sched {
            Sched::Threads => {}
            Sched::Lazy => {
                let _turn = lock(&TURN);
                self.on.run_until(&once);
            }
            Sched::Prio => {
                let _turn = lock(&TURN);
                run_by_priority(&once);
            }
        }
        self.is_done()
    }
}

#[derive(Default)]
pub struct Event(Mutex<Option<Arc<Ticket>>>);

impl Event {
    pub fn last(&self) -> Option<Arc<Ticket>> {
        lock(&self.0).clone()
    }

    pub fn record(&self, on: &Arc<Stream>) -> Status {
        let ticket = Ticket::new(on.clone());
        *lock(&self.0) = Some(ticket.clone());
        on.push_op(Op::Record(ticket))
    }
}

// ---- streams ----

/// A copy, a fill or a launch. A graph runs it again and again.
pub type Work = Arc<dyn Fn() + Send + Sync>;

pub enum Op {
    Run(Work),
    Wait(Arc<Ticket>),
    Record(Arc<Ticket>),
}

impl Op {
    fn run(self) {
        match self {
            Op::Run(work) => work(),
            Op::Wait(ticket) => ticket.wait(),
            Op::Record(ticket) => ticket.complete(),
        }
    }
}

#[derive(Default)]
struct Queue {
    ops: VecDeque<Op>,
    busy: bool,
    stop: bool,
}

#[derive(Default)]
pub struct Stream {
    id: u64,
    queue: Mutex<Queue>,
    more: Condvar,
    idle: Condvar,
    /// What is written down in place of being queued, while a graph is captured.
    pub capture: Mutex<Option<Capture>>,
}

impl Stream {
    pub fn new() -> Arc<Self> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let stream = Arc::new(Stream { id: NEXT.fetch_add(1, SeqCst), ..Default::default() });
        if config().sched == Sched::Threads {
            let worker = stream.clone();
            std::thread::Builder::new()
                .name(format!("cuemu-stream-{}", stream.id))
                .spawn(move || worker.work())
                .expect("a thread for a stream");
        }
        lock(all()).push(stream.clone());
        stream
    }

    pub fn push(&self, work: impl Fn() + Send + Sync + 'static) -> Status {
        let work: Work = Arc::new(work);
        match &mut *lock(&self.capture) {
            Some(capture) => capture.add(Node::Run(work)),
            None => self.push_op(Op::Run(work)),
        }
    }

    pub fn push_wait(&self, ticket: Arc<Ticket>) -> Status {
        self.push_op(Op::Wait(ticket))
    }

    pub fn push_op(&self, op: Op) -> Status {
        let mut queue = lock(&self.queue);
        tsan::release(self);
        queue.ops.push_back(op);
        self.more.notify_one();
        OK
    }

    /// The host waits for all that was enqueued.
    pub fn synchronize(&self) -> Status {
        match config().sched {
            Sched::Threads => {
                let mut queue = lock(&self.queue);
                while queue.busy || !queue.ops.is_empty() {
                    queue = self.idle.wait(queue).unwrap_or_else(|e| e.into_inner());
                }
            }
            // What another host thread adds from here on is not waited for: nobody but that thread would run it.
            Sched::Lazy => {
                let _turn = lock(&TURN);
                self.run_until(&|| self.is_empty());
            }
            Sched::Prio => {
                let _turn = lock(&TURN);
                run_by_priority(&|| self.is_empty());
            }
        }
        tsan::acquire(&self.idle);
        sticky()
    }

    pub fn is_idle(&self) -> bool {
        let queue = lock(&self.queue);
        !queue.busy && queue.ops.is_empty()
    }

    pub fn stop(&self) {
        lock(&self.queue).stop = true;
        self.more.notify_one();
    }

    /// Threads schedule: the body of this stream's thread.
    fn work(&self) {
        let mut rng = spread(config().seed ^ spread(self.id + 1));
        while let Some(op) = self.next_op() {
            if config().jitter_us > 0 {
                rng = xorshift(rng);
                std::thread::sleep(Duration::from_micros(rng % config().jitter_us));
            }
            tsan::acquire(self); // what the host did before it enqueued
            op.run();
            tsan::release(&self.idle);
        }
    }

    fn next_op(&self) -> Option<Op> {
        let mut queue = lock(&self.queue);
        loop {
            if let Some(op) = queue.ops.pop_front() {
                queue.busy = true;
                return Some(op);
            }
            queue.busy = false;
            self.idle.notify_all();
            if queue.stop {
                return None;
            }
            queue = self.more.wait(queue).unwrap_or_else(|e| e.into_inner());
        }
    }

    /// Lazy schedule: this stream's own operations, and of other streams only what an event wait asks for.
    fn run_until(&self, done: &dyn Fn() -> bool) {
        while !done() {
            let Some(op) = self.pop() else { return };
            if let Op::Wait(ticket) = &op {
                ticket.on.run_until(&|| ticket.is_done());
            }
            op.run();
        }
    }

    fn pop(&self) -> Option<Op> {
        lock(&self.queue).ops.pop_front()
    }

    fn is_empty(&self) -> bool {
        lock(&self.queue).ops.is_empty()
    }

    fn is_runnable(&self) -> bool {
        match lock(&self.queue).ops.front() {
            None => false,
            Some(Op::Wait(ticket)) => ticket.is_done(),
            Some(_) => true,
        }
    }
}

/// Prio schedule: always the runnable stream of highest priority. Priorities are random and change now and then, which
/// finds ordering bugs that uniform random delays hide (probabilistic concurrency testing).
fn run_by_priority(done: &dyn Fn() -> bool) {
    static STATE: Mutex<(u64, u64)> = Mutex::new((0, 0)); // random state, salt of the priorities
    while !done() {
        let salt = {
            let mut state = lock(&STATE);
            if state.0 == 0 {
                state.0 = spread(config().seed);
            }
            state.0 = xorshift(state.0);
            if state.1 == 0 || state.0.is_multiple_of(16) {
                state.0 = xorshift(state.0);
                state.1 = state.0;
            }
            state.1
        };
        let streams = lock(all()).clone();
        let runnable = streams.into_iter().filter(|s| s.is_runnable());
        let Some(stream) = runnable.max_by_key(|s| (s.id + 1).wrapping_mul(salt)) else { return };
        if let Some(op) = stream.pop() {
            op.run();
        }
    }
}

pub fn synchronize_all() -> Status {
    let streams = lock(all()).clone();
    for stream in streams {
        stream.synchronize();
    }
    sticky()
}

fn all() -> &'static Mutex<Vec<Arc<Stream>>> {
    static STREAMS: OnceLock<Mutex<Vec<Arc<Stream>>>> = OnceLock::new();
    STREAMS.get_or_init(Default::default)
}

// ---- handles ----

/// # Safety
/// `handle` is null, one of CUDA's two reserved stream handles, or came from `Arc::into_raw` and is not destroyed.
pub unsafe fn stream(handle: *mut c_void) -> Arc<Stream> {
    static DEFAULT: OnceLock<Arc<Stream>> = OnceLock::new();
    if handle as usize <= 2 {
        return DEFAULT.get_or_init(Stream::new).clone();
    }
    unsafe { borrow(handle) }
}

/// # Safety
/// `handle` came from `Arc::into_raw` and is not destroyed.
pub unsafe fn event(handle: *mut c_void) -> Arc<Event> {
    unsafe { borrow(handle) }
}

unsafe fn borrow<T>(handle: *mut c_void) -> Arc<T> {
    unsafe {
        Arc::increment_strong_count(handle as *const T);
        Arc::from_raw(handle as *const T)
    }
}
