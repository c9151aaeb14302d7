//! Graphs: what is enqueued on one stream, written down and launched later, as often as wanted.
//!
//! Stricter than the driver: one stream, captured and ended by one thread, which meanwhile may do nothing that waits,
//! allocates, frees, or copies from memory that is not page-locked; events only as record nodes (`EXTERNAL`).

use std::cell::RefCell;
use std::sync::Arc;

use crate::lock;
use crate::schedule::{Event, Op, Stream, Work};
use crate::status::{CAPTURE_INVALIDATED, CAPTURE_UNSUPPORTED, INVALID_VALUE, OK, Status};

pub enum Node {
    Run(Work),
    Record(Arc<Event>),
}

/// A graph being written.
#[derive(Default)]
pub struct Capture {
    nodes: Vec<Node>,
    broken: bool,
}

impl Capture {
    pub fn add(&mut self, node: Node) -> Status {
        self.nodes.push(node);
        OK
    }
}

/// A graph, or one made ready to launch: here the same.
#[derive(Clone)]
pub struct Graph(Arc<Vec<Node>>);

thread_local! {
    static CAPTURING: RefCell<Option<Arc<Stream>>> = const { RefCell::new(None) };
}

pub fn begin(stream: &Arc<Stream>) -> Status {
    let mut capture = lock(&stream.capture);
    if capture.is_some() || CAPTURING.with_borrow(Option::is_some) {
        return INVALID_VALUE;
    }
    *capture = Some(Capture::default());
    CAPTURING.set(Some(stream.clone()));
    OK
}

pub fn end(stream: &Arc<Stream>) -> Result<Graph, Status> {
    let capture = lock(&stream.capture).take().ok_or(INVALID_VALUE)?;
    CAPTURING.set(None);
    if capture.broken {
        return Err(CAPTURE_INVALIDATED);
    }
    Ok(Graph(Arc::new(capture.nodes)))
}

/// For calls that a capture does not survive: their answer where this thread is capturing.
pub fn refused(call: &str) -> Option<Status> {
    CAPTURING.with_borrow(|stream| {
        let mut capture = lock(&stream.as_ref()?.capture);
        capture.as_mut()?.broken = true;
        eprintln!("cuemu: {call} while a graph is captured");
        Some(CAPTURE_UNSUPPORTED)
    })
}

/// Records an event: a node of the graph while one is captured, which `external` must ask for.
pub fn record(event: &Arc<Event>, stream: &Arc<Stream>, external: bool) -> Status {
    let mut capture = lock(&stream.capture);
    match &mut *capture {
        None => event.record(stream),
        Some(capture) if external => capture.add(Node::Record(event.clone())),
        Some(_) => {
            drop(capture);
            refused("cuEventRecord").unwrap_or(CAPTURE_UNSUPPORTED)
        }
    }
}

impl Graph {
    pub fn launch(&self, stream: &Arc<Stream>) -> Status {
        for node in self.0.iter() {
            match node {
                Node::Run(work) => stream.push_op(Op::Run(work.clone())),
                Node::Record(event) => event.record(stream),
            };
        }
        OK
    }
}
