//! One planted bug for each class that the rig claims to find: it must be found, and its mended twin must not be.
//!
//! The driver reads its settings once, so every run is a process of its own: the test calls itself with `PLANTED` set.
//! Kernels: `tests/cuda_emulator/planted`; `scripts/test_cuda.sh` builds them and says where they are.

use std::ffi::{CString, c_void};
use std::process::Command;

use cudarc::driver::sys::{
    CUevent_flags, CUevent_wait_flags, CUfunction, CUgraphInstantiate_flags, CUmodule, CUstream,
    CUstreamCaptureMode,
};
use cudarc::driver::{DriverError, result};

/// Numbers of device memory.
#[derive(Clone, Copy)]
struct Numbers(u64, usize);

/// The emulated driver as a program sees it.
struct Rig {
    module: CUmodule,
    stream: CUstream,
}

impl Rig {
    fn new(image: &[u8]) -> Result<Self, DriverError> {
        result::init()?;
        let device = result::device::get(0)?;
        // SAFETY: the device exists; the image ends in NUL.
        let module = unsafe {
            let context = result::primary_ctx::retain(device)?;
            result::ctx::set_current(context)?;
            result::module::load_data(image.as_ptr().cast())?
        };
        Ok(Self { module, stream: stream()? })
    }

    fn function(&self, name: &str) -> Result<CUfunction, DriverError> {
        // SAFETY: the module is never unloaded.
        unsafe { result::module::get_function(self.module, CString::new(name).unwrap()) }
    }

    /// One launch of `blocks` times `threads`; parameters are numbers or addresses.
    fn launch_on(
        &self,
        stream: CUstream,
        name: &str,
        (blocks, threads): (u32, u32),
        args: &[u64],
    ) -> Result<(), DriverError> {
        let mut values = args.to_vec();
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let function = self.function(name)?;
        // SAFETY: what is wrong with a launch here is what the rig is to find.
        unsafe { result::launch_kernel(function, (blocks, 1, 1), (threads, 1, 1), 0, stream, &mut pointers) }
    }

    fn launch(&self, name: &str, threads: u32, args: &[u64]) -> Result<(), DriverError> {
        self.launch_on(self.stream, name, (1, threads), args)
    }

    fn numbers(&self, len: usize) -> Result<Numbers, DriverError> {
        // SAFETY: plain allocation.
        Ok(Numbers(unsafe { result::malloc_sync(len * 4)? }, len))
    }

    fn filled(&self, values: &[u32]) -> Result<Numbers, DriverError> {
        let numbers = self.numbers(values.len())?;
        // SAFETY: as many numbers as there are.
        unsafe {
            result::memcpy_htod_async(numbers.0, values, self.stream)?;
            result::stream::synchronize(self.stream)?;
        }
        Ok(numbers)
    }

    fn free(&self, numbers: Numbers) -> Result<(), DriverError> {
        // SAFETY: what is freed twice or too early is what the rig is to find.
        unsafe { result::free_sync(numbers.0) }
    }

    /// Waits, and reads.
    fn read(&self, numbers: Numbers) -> Result<Vec<u32>, DriverError> {
        let mut values = vec![0; numbers.1];
        // SAFETY: as many numbers as there are, a live stream.
        unsafe {
            result::memcpy_dtoh_async(&mut values, numbers.0, self.stream)?;
            result::stream::synchronize(self.stream)?;
        }
        Ok(values)
    }
}

fn stream() -> Result<CUstream, DriverError> {
    result::stream::create(result::stream::StreamKind::NonBlocking)
}

/// Page-locked numbers, cut loose from Rust's borrows: the bugs are about who touches them when.
fn pinned(len: usize) -> Result<&'static mut [u32], DriverError> {
    // SAFETY: as many numbers as were allocated, written before they are seen.
    unsafe {
        let start: *mut u32 = result::malloc_host(len * 4, 0)?.cast();
        std::ptr::write_bytes(start, 0, len);
        Ok(std::slice::from_raw_parts_mut(start, len))
    }
}

fn iota(len: u32) -> Vec<u32> {
    (0..len).collect()
}

fn reversed(len: u32) -> Vec<u32> {
    (0..len).rev().collect()
}

/// What a run found, and what it should have.
type Found = Result<(Vec<u32>, Vec<u32>), DriverError>;

/// An ELF header: the driver takes a compiled module on trust.
const TRUSTED: &[u8] = b"\x7fELF\0";

fn writes_past_the_end(bug: bool, far: u64) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let out = rig.filled(&[0; 10])?;
    rig.launch("write_at", 1, &[out.0, if bug { 10 + far } else { 9 }, 1])?;
    let mut values = rig.read(out)?;
    rig.free(out)?;
    values.extend(rig.read(rig.filled(&[7])?)?); // an error sticks
    Ok((values, vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 7]))
}

fn reads_past_the_end(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let (input, out) = (rig.filled(&iota(64))?, rig.filled(&[0])?);
    rig.launch("read_at", 1, &[input.0, if bug { 64 } else { 63 }, out.0])?;
    Ok((rig.read(out)?, vec![63]))
}

fn reads_what_nobody_wrote(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let input = if bug { rig.numbers(1)? } else { rig.filled(&[0])? };
    let out = rig.filled(&[5])?;
    rig.launch("read_at", 1, &[input.0, 0, out.0])?;
    Ok((rig.read(out)?, vec![0]))
}

fn uses_after_free(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let (input, out) = (rig.filled(&[3])?, rig.filled(&[0])?);
    if bug {
        rig.free(input)?;
    }
    rig.launch("read_at", 1, &[input.0, 0, out.0])?;
    Ok((rig.read(out)?, vec![3]))
}

fn frees_twice(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let numbers = rig.filled(&[3])?;
    let value = rig.read(numbers)?;
    rig.free(numbers)?;
    if bug {
        rig.free(numbers)?;
    }
    Ok((value, vec![3]))
}

fn copies_too_much(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let numbers = rig.filled(&[1, 2])?;
    let mut values = vec![0; if bug { 3 } else { 2 }];
    // SAFETY: too long on purpose.
    unsafe { result::memcpy_dtoh_async(&mut values, numbers.0, rig.stream)? };
    Ok((values, vec![1, 2]))
}

/// One of the `reverse*` kernels.
fn shares(name: &str, threads: u32, rounds: u32, bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let (input, out) = (rig.filled(&iota(threads))?, rig.numbers((threads * rounds) as usize)?);
    rig.launch(name, threads, &[input.0, out.0, bug.into()])?;
    let expected = (0..rounds).flat_map(|round| reversed(threads).into_iter().map(move |v| v + round));
    Ok((rig.read(out)?, expected.collect()))
}

fn splits_a_barrier(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let out = rig.numbers(64)?;
    rig.launch("split_barrier", 64, &[out.0, bug.into()])?;
    Ok((rig.read(out)?, vec![1; 64]))
}

fn sums_lanes(bug: u64) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let out = rig.numbers(1)?;
    rig.launch("sum_lanes", 32, &[out.0, bug])?;
    Ok((rig.read(out)?, vec![32]))
}

fn reads_before_the_copy(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let (input, out) = (rig.filled(&iota(128))?, rig.numbers(128)?);
    rig.launch("copy_async", 32, &[input.0, out.0, bug.into()])?;
    Ok((rig.read(out)?, iota(128)))
}

fn leaves_shared_memory(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let out = rig.numbers(32)?;
    rig.launch("shared_at", 32, &[out.0, if bug { 32 } else { 31 }])?;
    Ok((rig.read(out)?, vec![31; 32]))
}

fn lists_in_no_order(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let (count, out) = (rig.filled(&[0])?, rig.numbers(256)?);
    rig.launch_on(rig.stream, "list_indices", (4, 64), &[count.0, out.0, bug.into()])?;
    Ok((rig.read(out)?, iota(256)))
}

/// A second stream reads what the first one writes. bug: without waiting for its event.
fn streams_without_order(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let other = stream()?;
    let (data, out) = (rig.filled(&[0])?, rig.numbers(1)?);
    let event = result::event::create(CUevent_flags::CU_EVENT_DEFAULT)?;
    rig.launch_on(other, "add_one", (1, 1), &[data.0, 1])?;
    // SAFETY: live streams and a live event.
    unsafe {
        result::event::record(event, other)?;
        if !bug {
            result::stream::wait_event(rig.stream, event, CUevent_wait_flags::CU_EVENT_WAIT_DEFAULT)?;
        }
    }
    rig.launch("read_at", 1, &[data.0, 0, out.0])?;
    Ok((rig.read(out)?, vec![1]))
}

/// bug: the input is overwritten while its copy may still be under way.
fn refills_too_early(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let (host, data) = (pinned(4)?, rig.numbers(4)?);
    host.copy_from_slice(&[1, 2, 3, 4]);
    // SAFETY: both are long enough; the host's early write is the bug.
    unsafe {
        result::memcpy_htod_async(data.0, host, rig.stream)?;
        if !bug {
            result::stream::synchronize(rig.stream)?;
        }
        std::ptr::write_volatile(host.as_mut_ptr(), 9);
    }
    Ok((rig.read(data)?, vec![1, 2, 3, 4]))
}

/// bug: the output is read while its copy may still be under way.
fn reads_too_early(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let (host, data) = (pinned(4)?, rig.filled(&[1, 2, 3, 4])?);
    // SAFETY: both are long enough; the host's early read is the bug.
    let early = unsafe {
        result::memcpy_dtoh_async(host, data.0, rig.stream)?;
        if !bug {
            result::stream::synchronize(rig.stream)?;
        }
        let early = (0..4).map(|i| std::ptr::read_volatile(host.as_ptr().add(i))).collect();
        result::stream::synchronize(rig.stream)?;
        early
    };
    Ok((early, vec![1, 2, 3, 4]))
}

/// bug: page-locked memory is freed before the copy that reads it has run.
fn frees_too_early(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let (host, data) = (pinned(4)?, rig.numbers(4)?);
    host.copy_from_slice(&[1, 2, 3, 4]);
    // SAFETY: the early release is the bug.
    unsafe {
        result::memcpy_htod_async(data.0, host, rig.stream)?;
        if !bug {
            result::stream::synchronize(rig.stream)?;
        }
        result::free_host(host.as_mut_ptr().cast())?;
    }
    Ok((rig.read(data)?, vec![1, 2, 3, 4]))
}

/// A graph of one launch, launched twice. bug: its recording waits for the stream.
fn records_a_graph(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let data = rig.filled(&[1])?;
    // SAFETY: live streams and graphs; the wait is the bug.
    unsafe {
        result::stream::begin_capture(rig.stream, CUstreamCaptureMode::CU_STREAM_CAPTURE_MODE_THREAD_LOCAL)?;
        rig.launch("add_one", 1, &[data.0, 1])?;
        if bug {
            let _ = result::stream::synchronize(rig.stream);
        }
        let graph = result::stream::end_capture(rig.stream)?;
        let exec = result::graph::instantiate(graph, CUgraphInstantiate_flags(0))?;
        result::graph::launch(exec, rig.stream)?;
        result::graph::launch(exec, rig.stream)?;
    }
    Ok((rig.read(data)?, vec![3]))
}

/// A module as NVRTC makes it, whose kernel has `parameters`.
fn module(name: &str, parameters: &[&str]) -> Vec<u8> {
    let list: Vec<String> = parameters.iter().map(|kind| format!(".param {kind} {name}_param")).collect();
    format!(".version 8.5\n.target sm_87\n.visible .entry {name}(\n{}\n)\n{{ ret; }}\n\0", list.join(",\n"))
        .into()
}

fn loads(name: &str, parameters: &[&str]) -> Found {
    let rig = Rig::new(&module(name, parameters))?;
    let data = rig.filled(&[4])?;
    rig.launch("add_one", 1, &[data.0, 1])?;
    Ok((rig.read(data)?, vec![5]))
}

fn launches_too_many_threads(bug: bool) -> Found {
    let rig = Rig::new(TRUSTED)?;
    let data = rig.filled(&[4])?;
    rig.launch("add_one", if bug { 1025 } else { 1024 }, &[data.0, 1])?;
    Ok((rig.read(data)?, vec![5]))
}

/// Which kernels are loaded, and what runs beside the program.
#[derive(Clone, Copy, PartialEq)]
enum Build {
    Race,
    Address,
    Thread,
}

/// Name; the build that finds it; the words it is found by; the program.
type Case = (&'static str, Build, &'static str, fn(bool) -> Found);

/// What a result that differs is called here.
const WRONG: &str = "wrong result";

const CASES: &[Case] = &[
    ("write to a guard page", Build::Race, "past its end", |bug| writes_past_the_end(bug, 1024)),
    ("write over a canary", Build::Race, "written 0 bytes past its end", |bug| writes_past_the_end(bug, 0)),
    ("read past the end", Build::Race, "illegal address", reads_past_the_end),
    ("uninitialised memory", Build::Race, WRONG, reads_what_nobody_wrote),
    ("use after free", Build::Race, "(freed)", uses_after_free),
    ("double free", Build::Race, "double free", frees_twice),
    ("copy too long", Build::Race, "is outside its allocation", copies_too_much),
    ("missing barrier", Build::Race, "race on shared memory", |bug| shares("reverse", 64, 1, bug)),
    ("missing barrier before reuse", Build::Race, "race on shared memory", |bug| {
        shares("reverse_twice", 64, 2, bug)
    }),
    ("missing __syncwarp", Build::Race, "race on shared memory", |bug| shares("reverse_warp", 32, 1, bug)),
    ("divergent barrier", Build::Race, "different __syncthreads()", splits_a_barrier),
    ("lane that has left", Build::Race, "has exited", |bug| sums_lanes(bug.into())),
    ("lane not in its mask", Build::Race, "not in its mask", |bug| sums_lanes(2 * u64::from(bug))),
    ("missing wait for asynchronous copies", Build::Race, WRONG, reads_before_the_copy),
    ("order of threads", Build::Race, WRONG, lists_in_no_order),
    ("missing event wait", Build::Race, WRONG, streams_without_order),
    ("input refilled too early", Build::Race, "changed before it ran", refills_too_early),
    ("output read too early", Build::Race, WRONG, reads_too_early),
    ("page-locked memory freed too early", Build::Race, "(freed)", frees_too_early),
    ("wrong name of a kernel", Build::Race, "CUDA_ERROR_NOT_FOUND", |bug| {
        loads(if bug { "add_two" } else { "add_one" }, &[".u64", ".u32"])
    }),
    ("wrong number of parameters", Build::Race, "parameters of", |bug| {
        loads("add_one", if bug { &[".u64"] } else { &[".u64", ".u32"] })
    }),
    ("wrong size of a parameter", Build::Race, "parameters of", |bug| {
        loads("add_one", &[".u64", if bug { ".u64" } else { ".u32" }])
    }),
    ("wait while a graph is recorded", Build::Race, "while a graph is captured", records_a_graph),
    ("too many threads", Build::Race, "CUDA_ERROR_INVALID_VALUE", launches_too_many_threads),
    ("write past the end, sanitized", Build::Address, "heap-buffer-overflow", |bug| {
        writes_past_the_end(bug, 0)
    }),
    ("shared memory out of bounds", Build::Address, "global-buffer-overflow", leaves_shared_memory),
    ("missing barrier, sanitized", Build::Thread, "data race", |bug| shares("reverse", 64, 1, bug)),
];

/// Not a test of its own: the body of each run below.
#[test]
#[ignore = "the body of the other test"]
fn body() {
    let Ok(wanted) = std::env::var("PLANTED") else { return };
    let bug = std::env::var_os("PLANTED_BUG").is_some();
    let (.., run) = CASES.iter().find(|case| case.0 == wanted).unwrap();
    match run(bug) {
        Ok((found, expected)) if found == expected => println!("right result"),
        Ok((found, expected)) => println!("{WRONG}: {found:?}, not {expected:?}"),
        Err(error) => println!("driver: {error:?}"),
    }
}

/// What a run says, everything it wrote; nothing where its sanitizer is not to be had.
fn said(case: &Case, bug: bool, schedule: &str, seed: u32) -> Option<String> {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--ignored", "--exact", "body", "--nocapture"]).env("PLANTED", case.0);
    let build = match case.1 {
        Build::Race => "PLANTED_race",
        Build::Address => "PLANTED_address",
        Build::Thread => "PLANTED_thread",
    };
    command.env("CUEMU_KERNELS", std::env::var_os(build)?);
    if case.1 != Build::Race {
        command.env("LD_PRELOAD", std::env::var_os(format!("{build}_RUNTIME"))?);
        command.env("CUEMU_MALLOC", "1").env("ASAN_OPTIONS", "detect_leaks=0:use_sigaltstack=0");
        // Rust's own threads are not built for it.
        command.env("TSAN_OPTIONS", "ignore_noninstrumented_modules=1");
    }
    command.env("CUEMU_SCHED", schedule).env("CUEMU_SEED", seed.to_string());
    if bug {
        command.env("PLANTED_BUG", "1");
    }
    let output = command.output().unwrap();
    Some(format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[test]
#[ignore = "needs the emulated driver: make test-cuda"]
fn every_planted_bug_is_found_and_its_mended_twin_is_not() {
    assert!(std::env::var_os("PLANTED_race").is_some(), "run by scripts/test_cuda.sh");
    let mut wrong = Vec::new();
    for case in CASES {
        let (name, _, words, _) = case;
        let Some(text) = said(case, true, "lazy", 1) else {
            println!("SKIPPED {name}: no runtime of that sanitizer");
            continue;
        };
        if !text.contains(words) {
            wrong.push(format!("{name} should say `{words}`: {text}"));
        }
        for schedule in ["lazy", "prio", "threads"] {
            let text = said(case, false, schedule, 2).expect("the runtime was there");
            if !text.contains("right result") || text.contains("cuemu: ") || text.contains("Sanitizer") {
                wrong.push(format!("{name}, mended, {schedule}: {text}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

/// Jitter and luck: a schedule by priorities finds a missing wait with most seeds.
#[test]
#[ignore = "needs the emulated driver: make test-cuda"]
fn seeds_of_priorities_find_a_missing_wait() {
    let case = CASES.iter().find(|case| case.0 == "missing event wait").unwrap();
    let found = (1..=12).filter(|&seed| said(case, true, "prio", seed).unwrap().contains(WRONG)).count();
    assert!(found >= 4, "{found} of 12 seeds");
}
