//! Kernels: the CPU build (the library named by `CUEMU_KERNELS`), checked against the real PTX when there is one.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, c_char, c_int, c_uint, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering::SeqCst};
use std::time::Instant;

use crate::config::config;
use crate::memory::describe;
use crate::schedule::Stream;
use crate::status::{ILLEGAL_ADDRESS, INVALID_IMAGE, LAUNCH_FAILED, NOT_FOUND, OK, Status, fail, sticky};

/// `simt::Kernel` of simt.h.
#[repr(C)]
pub struct Kernel {
    name: *const c_char,
    nargs: c_uint,
    sizes: *const c_uint,
    pack: unsafe extern "C" fn(*mut *mut c_void) -> *mut c_void,
    call: *const c_void,
    drop: unsafe extern "C" fn(*mut c_void),
}

/// `simt::Fault` of simt.h.
#[repr(C)]
struct Fault {
    kind: c_int,
    address: u64,
    block: [c_uint; 3],
    thread: [c_uint; 3],
    what: [c_char; 160],
}

const ADDRESS_FAULT: c_int = 1;

type Find = unsafe extern "C" fn(*const c_char) -> *const Kernel;
type Run =
    unsafe extern "C" fn(*const Kernel, *mut c_void, *const c_uint, c_uint, u64, c_int, *mut Fault) -> c_int;

struct Library {
    find: Find,
    run: Run,
}

fn library() -> Option<&'static Library> {
    static LIBRARY: OnceLock<Option<Library>> = OnceLock::new();
    LIBRARY
        .get_or_init(|| {
            let Ok(path) = std::env::var("CUEMU_KERNELS") else {
                eprintln!("cuemu: CUEMU_KERNELS names no kernel library");
                return None;
            };
            let path = CString::new(path).ok()?;
            // SAFETY: a library made by build_kernels.sh, whose two entries have these signatures.
            unsafe {
                let handle = libc::dlopen(path.as_ptr(), libc::RTLD_NOW | libc::RTLD_LOCAL);
                if handle.is_null() {
                    eprintln!("cuemu: {}", CStr::from_ptr(libc::dlerror()).to_string_lossy());
                    return None;
                }
                Some(Library {
                    find: std::mem::transmute::<*mut c_void, Find>(libc::dlsym(
                        handle,
                        c"simt_find".as_ptr(),
                    )),
                    run: std::mem::transmute::<*mut c_void, Run>(libc::dlsym(handle, c"simt_run".as_ptr())),
                })
            }
        })
        .as_ref()
}

/// A loaded module: the PTX's entries and the sizes of their parameters; a cubin is taken on trust.
pub struct Module {
    entries: Option<BTreeMap<String, Vec<u32>>>,
}

impl Module {
    /// # Safety
    /// `image` is an ELF cubin or NUL-terminated PTX.
    pub unsafe fn load(image: *const c_void) -> Option<Self> {
        let is_elf = unsafe { std::slice::from_raw_parts(image.cast::<u8>(), 4) } == b"\x7fELF";
        if is_elf {
            return Some(Module { entries: None });
        }
        let entries = ptx_entries(&unsafe { CStr::from_ptr(image.cast()) }.to_string_lossy());
        (!entries.is_empty()).then_some(Module { entries: Some(entries) })
    }

    pub fn function(&self, name: &CStr) -> Result<*const Kernel, Status> {
        let text = name.to_string_lossy();
        let in_ptx = match &self.entries {
            Some(entries) => Some(entries.get(text.as_ref()).ok_or(NOT_FOUND)?),
            None => None,
        };
        let library = library().ok_or(NOT_FOUND)?;
        let kernel = unsafe { (library.find)(name.as_ptr()) };
        if kernel.is_null() {
            eprintln!("cuemu: no CPU build of kernel {text}");
            return Err(NOT_FOUND);
        }
        let on_cpu = unsafe { std::slice::from_raw_parts((*kernel).sizes, (*kernel).nargs as usize) };
        match in_ptx {
            Some(sizes) if sizes != on_cpu => {
                eprintln!(
                    "cuemu: kernel {text}: parameters of {sizes:?} bytes in the PTX, {on_cpu:?} on the CPU"
                );
                Err(INVALID_IMAGE)
            }
            _ => Ok(kernel),
        }
    }
}

fn ptx_entries(ptx: &str) -> BTreeMap<String, Vec<u32>> {
    let mut entries = BTreeMap::new();
    for part in ptx.split(".entry ").skip(1) {
        let Some((name, rest)) = part.split_once('(') else { continue };
        let Some((params, _)) = rest.split_once(')') else { continue };
        entries.insert(name.trim().to_string(), params.split(".param").skip(1).map(param_size).collect());
    }
    entries
}

/// `.u64 name` or `.align 4 .b8 name[12]`
fn param_size(param: &str) -> u32 {
    if let Some((_, count)) = param.split_once('[') {
        return count.split(']').next().and_then(|n| n.parse().ok()).unwrap_or(0);
    }
    let size = |word: &str| match word {
        ".u64" | ".s64" | ".f64" | ".b64" => Some(8),
        ".u32" | ".s32" | ".f32" | ".b32" => Some(4),
        ".u16" | ".s16" | ".b16" => Some(2),
        ".u8" | ".s8" | ".b8" => Some(1),
        _ => None,
    };
    param.split_whitespace().find_map(size).unwrap_or(0)
}

/// Enqueues a launch. `dims`: grid x y z, block x y z.
///
/// # Safety
/// `kernel` came from [`Module::function`]; `args` has one pointer for each of its parameters.
pub unsafe fn launch(
    kernel: *const Kernel,
    dims: [c_uint; 6],
    shared: c_uint,
    stream: &Stream,
    args: *mut *mut c_void,
) -> Status {
    if sticky() != OK {
        return sticky();
    }
    static LAUNCHES: AtomicU64 = AtomicU64::new(0);
    let seed = config().seed.wrapping_mul(1_000_003) + LAUNCHES.fetch_add(1, SeqCst);
    // As in CUDA, the arguments are copied when the launch is issued.
    let launch = Launch { kernel, arguments: unsafe { ((*kernel).pack)(args) }, dims, shared, seed };
    stream.push(move || launch.run())
}

/// A launch with its arguments; a graph runs it more than once.
struct Launch {
    kernel: *const Kernel,
    arguments: *mut c_void,
    dims: [c_uint; 6],
    shared: c_uint,
    seed: u64,
}

// SAFETY: the kernel is a constant of its library, the arguments are only read.
unsafe impl Send for Launch {}
unsafe impl Sync for Launch {}

impl Drop for Launch {
    fn drop(&mut self) {
        // SAFETY: packed for this launch, dropped once.
        unsafe { ((*self.kernel).drop)(self.arguments) }
    }
}

impl Launch {
    fn run(&self) {
        // SAFETY: arguments and kernel belong together.
        unsafe { run(self.kernel, self.arguments, self.dims, self.shared, self.seed) }
    }
}

unsafe fn run(kernel: *const Kernel, packed: *mut c_void, dims: [c_uint; 6], shared: c_uint, seed: u64) {
    let Some(library) = library() else { return };
    let start = Instant::now();
    let mut fault: Fault = unsafe { std::mem::zeroed() };
    if sticky() == OK {
        unsafe { (library.run)(kernel, packed, dims.as_ptr(), shared, seed, config().order, &mut fault) };
    }
    let name = unsafe { CStr::from_ptr((*kernel).name) }.to_string_lossy();
    if let Some(status) = crate::faults::injected(&name) {
        fail(status, &format!("kernel {name}: injected fault"));
    }
    if config().log {
        eprintln!("cuemu: {name} {dims:?} {:?}", start.elapsed());
    }
    if fault.kind == 0 {
        return;
    }
    let what = unsafe { CStr::from_ptr(fault.what.as_ptr()) }.to_string_lossy();
    let at = format!("kernel {name}, block {:?}, thread {:?}: {what}", fault.block, fault.thread);
    if fault.kind == ADDRESS_FAULT {
        let place = describe(fault.address as usize);
        fail(ILLEGAL_ADDRESS, &format!("{at} {:#x} ({place})", fault.address));
    } else {
        fail(LAUNCH_FAILED, &at);
    }
}
