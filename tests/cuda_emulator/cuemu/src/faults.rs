//! Failures on demand: `CUEMU_FAIL=NAME:N:CODE[,...]`.
//!
//! A NAME of the driver API fails its N-th call (from 1) with CODE, and nothing happens. The NAME of a kernel lets its
//! N-th launch run and then fail: the error sticks to the context, as asynchronous ones do. N = 0 fails every call.

use std::collections::BTreeMap;
use std::sync::{Mutex, OnceLock};

use crate::config::text;
use crate::lock;
use crate::status::Status;

struct Fault {
    at: u64,
    status: Status,
}

fn faults() -> &'static BTreeMap<String, Fault> {
    static FAULTS: OnceLock<BTreeMap<String, Fault>> = OnceLock::new();
    FAULTS.get_or_init(|| {
        let parse = |part: &str| {
            let mut fields = part.split(':');
            let name = fields.next()?.to_owned();
            let fault = Fault { at: fields.next()?.parse().ok()?, status: fields.next()?.parse().ok()? };
            Some((name, fault))
        };
        let list = text("CUEMU_FAIL").unwrap_or_default();
        let parts = list.split(',').filter(|part| !part.is_empty());
        parts
            .map(|part| parse(part).unwrap_or_else(|| panic!("CUEMU_FAIL wants NAME:N:CODE, not {part}")))
            .collect()
    })
}

/// What this call of `name` is to answer, if it is to fail.
pub fn injected(name: &str) -> Option<Status> {
    static CALLS: Mutex<BTreeMap<String, u64>> = Mutex::new(BTreeMap::new());
    let fault = faults().get(name)?;
    let mut calls = lock(&CALLS);
    let count = calls.entry(name.to_owned()).or_default();
    *count += 1;
    (fault.at == 0 || *count == fault.at).then_some(fault.status)
}
