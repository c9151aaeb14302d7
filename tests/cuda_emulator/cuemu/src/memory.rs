//! Device and pinned memory: host memory that ends as near as its alignment allows to an unmapped page.

use std::collections::BTreeMap;
use std::ffi::c_int;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::sync::{Mutex, OnceLock};

use crate::config::config;
use crate::status::{ILLEGAL_ADDRESS, INVALID_VALUE, OK, Status, fail};
use crate::{lock, tsan};

const PAGE: usize = 4096;
/// CUDA's own alignment of an allocation.
const ALIGN: usize = 256;
/// Fills the bytes between an allocation's end and its alignment.
const CANARY: u8 = 0xCA;

#[derive(Clone, Copy, PartialEq, Debug)]
pub enum Kind {
    Device,
    Pinned,
}

#[derive(Clone, Debug)]
struct Allocation {
    id: u64,
    kind: Kind,
    size: usize,
    freed: bool,
    /// The mapping with its guard pages; `map_len` is 0 when it came from malloc.
    map: usize,
    map_len: usize,
}

impl Allocation {
    /// Bytes really there: an empty allocation still has an address.
    fn bytes(&self) -> usize {
        self.size.max(1)
    }
}

/// Allocations by address. Freed ones stay, unmapped, so that a use after free is named.
fn heap() -> &'static Mutex<BTreeMap<usize, Allocation>> {
    static HEAP: OnceLock<Mutex<BTreeMap<usize, Allocation>>> = OnceLock::new();
    HEAP.get_or_init(Default::default)
}

pub fn allocate(size: usize, kind: Kind) -> Option<usize> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    if kind == Kind::Device && device_bytes_in_use() + size > config().memory {
        return None;
    }
    let id = NEXT.fetch_add(1, SeqCst);
    let bytes = size.max(1);
    let (address, map, map_len) = if config().malloc { from_malloc(bytes)? } else { from_pages(bytes)? };
    // SAFETY: both sources give at least `bytes` writable bytes at `address`.
    unsafe { libc::memset(address as _, c_int::from(config().poison), bytes) };
    lock(heap()).insert(address, Allocation { id, kind, size, freed: false, map, map_len });
    Some(address)
}

fn from_malloc(bytes: usize) -> Option<(usize, usize, usize)> {
    let mut p = std::ptr::null_mut();
    let rc = unsafe { libc::posix_memalign(&mut p, ALIGN, bytes) };
    (rc == 0).then_some((p as usize, p as usize, 0))
}

fn from_pages(bytes: usize) -> Option<(usize, usize, usize)> {
    let padded = bytes.next_multiple_of(ALIGN);
    let body = padded.next_multiple_of(PAGE);
    let map_len = body + 2 * PAGE;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
    unsafe {
        let map = libc::mmap(std::ptr::null_mut(), map_len, libc::PROT_NONE, flags, -1, 0);
        if map == libc::MAP_FAILED {
            return None;
        }
        libc::mprotect(map.add(PAGE), body, libc::PROT_READ | libc::PROT_WRITE);
        let address = map as usize + PAGE + body - padded;
        libc::memset((address + bytes) as _, c_int::from(CANARY), padded - bytes);
        Some((address, map as usize, map_len))
    }
}

pub fn free(address: usize) -> Status {
    if address == 0 {
        return OK;
    }
    let mut heap = lock(heap());
    let Some(a) = heap.get_mut(&address) else { return INVALID_VALUE };
    if a.freed {
        fail(INVALID_VALUE, &format!("double free of allocation #{}", a.id));
        return INVALID_VALUE;
    }
    if a.map_len == 0 {
        unsafe { libc::free(address as _) };
        heap.remove(&address);
        return OK;
    }
    check_canary(address, a);
    a.freed = true;
    unsafe {
        libc::madvise(a.map as _, a.map_len, libc::MADV_DONTNEED);
        libc::mprotect(a.map as _, a.map_len, libc::PROT_NONE);
    }
    OK
}

fn check_canary(address: usize, a: &Allocation) {
    for past in 0..a.bytes().next_multiple_of(ALIGN) - a.bytes() {
        if unsafe { *((address + a.bytes() + past) as *const u8) } != CANARY {
            let text = format!("allocation #{} ({} bytes): written {past} bytes past its end", a.id, a.size);
            return fail(ILLEGAL_ADDRESS, &text);
        }
    }
}

pub fn is_known(address: usize) -> bool {
    find(address).is_some()
}

fn find(address: usize) -> Option<(usize, Allocation)> {
    let heap = lock(heap());
    let (start, a) = heap.range(..=address).next_back()?;
    (address < start + a.bytes()).then(|| (*start, a.clone()))
}

/// Says which allocation an address belongs to, or is near.
pub fn describe(address: usize) -> String {
    let heap = lock(heap());
    let below = heap.range(..=address).next_back();
    let above = heap.range(address..).next();
    let holds = |(start, a): &(&usize, &Allocation)| {
        (a.map..a.map + a.map_len).contains(&address) || (**start..**start + a.size).contains(&address)
    };
    let Some((start, a)) = below.into_iter().chain(above).find(holds) else { return "no allocation".into() };
    let place = if address < *start {
        format!("{} bytes before it", start - address)
    } else if address >= start + a.size {
        format!("{} bytes past its end", address - start - a.size)
    } else {
        format!("offset {}", address - start)
    };
    let freed = if a.freed { " (freed)" } else { "" };
    format!("{:?} allocation #{} of {} bytes{freed}: {place}", a.kind, a.id, a.size)
}

/// Whether the range lies in one live allocation. As in the driver, a copy is checked when it is issued.
pub fn check_range(address: usize, len: usize) -> Status {
    match find(address) {
        Some((start, a)) if !a.freed && address + len <= start + a.size => OK,
        _ if len == 0 => OK,
        _ => {
            eprintln!(
                "cuemu: copy of {len} bytes at {address:#x} is outside its allocation: {}",
                describe(address)
            );
            INVALID_VALUE
        }
    }
}

/// A copy whose turn has come. Memory that was freed since it was issued is named, not touched.
pub fn copy(to: usize, from: usize, len: usize) {
    for address in [to, from] {
        if find(address).is_some_and(|(_, allocation)| allocation.freed) {
            return fail(ILLEGAL_ADDRESS, &format!("copy of {len} bytes: {}", describe(address)));
        }
    }
    tsan::read(from, len);
    tsan::write(to, len);
    unsafe { std::ptr::copy(from as *const u8, to as *mut u8, len) }
}

/// Tells whether page-locked memory was changed.
pub fn digest(from: usize, len: usize) -> u64 {
    // SAFETY: the caller's copy reads the same bytes.
    let bytes = unsafe { std::slice::from_raw_parts(from as *const u8, len) };
    let mix = |hash: u64, word: u64| (hash ^ word).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29);
    let (words, rest) = bytes.as_chunks::<8>();
    let hash = words.iter().fold(len as u64, |hash, word| mix(hash, u64::from_le_bytes(*word)));
    rest.iter().fold(hash, |hash, &byte| mix(hash, u64::from(byte)))
}

/// A copy from page-locked memory that held `issued` when it was issued.
pub fn copy_unchanged(to: usize, from: usize, len: usize, issued: Option<u64>) {
    let freed = find(from).is_some_and(|(_, allocation)| allocation.freed);
    if !freed && issued.is_some_and(|issued| issued != digest(from, len)) {
        let text = format!("copy of {len} bytes: changed before it ran: {}", describe(from));
        return fail(ILLEGAL_ADDRESS, &text);
    }
    copy(to, from, len);
}

pub fn fill(address: usize, byte: u8, len: usize) {
    tsan::write(address, len);
    unsafe { std::ptr::write_bytes(address as *mut u8, byte, len) }
}

pub fn device_bytes_in_use() -> usize {
    lock(heap()).values().filter(|a| !a.freed && a.kind == Kind::Device).map(|a| a.size).sum()
}
