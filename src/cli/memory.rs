//! What happens when memory runs out (`ulimit -v`, the limit of a container or a job): one error line, and exit code 1.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The system's allocator, which ends the program with one error line when there is no memory left. Without it Rust aborts with
/// a stack trace.
#[derive(Debug)]
pub struct Memory;

const CURE: &str = "raise its limit (ulimit -v, that of the container or the job), or ask for less: smaller batches, fewer \
                    threads, fewer rows";

// SAFETY: everything is passed on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Memory {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees the same contract.
        there(unsafe { System.alloc(layout) }, layout.size())
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: the caller guarantees the same contract.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller guarantees the same contract.
        there(unsafe { System.alloc_zeroed(layout) }, layout.size())
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the caller guarantees the same contract.
        there(unsafe { System.realloc(pointer, layout, size) }, size)
    }
}

fn there(pointer: *mut u8, size: usize) -> *mut u8 {
    if pointer.is_null() {
        end(size);
    }
    pointer
}

/// Does the same for what C++ libraries allocate with `new`, if their runtime library is loaded: they catch most failed
/// allocations, but not all.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn watch_libraries() {
    type Handler = extern "C" fn();
    extern "C" fn refused() {
        end(0)
    }
    // SAFETY: the library is already loaded, and the function is one of the C++ standard (18.6.2.5) under the name that its ABI
    // gives it: it accepts a function without arguments and returns the previous one.
    unsafe {
        let library = libc::dlopen(c"libstdc++.so.6".as_ptr(), libc::RTLD_NOW | libc::RTLD_NOLOAD);
        if library.is_null() {
            return;
        }
        let set = libc::dlsym(library, c"_ZSt15set_new_handlerPFvvE".as_ptr());
        if !set.is_null() {
            let set: unsafe extern "C" fn(Handler) -> Option<Handler> = std::mem::transmute(set);
            set(refused);
        }
    }
}

#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn watch_libraries() {}

/// Reports the failure and ends, without allocating: finished files are on disk, and the next run removes unfinished ones.
#[cold]
fn end(size: usize) -> ! {
    static SAID_SO: AtomicBool = AtomicBool::new(false);
    while SAID_SO.swap(true, Ordering::SeqCst) {
        // Another thread is reporting it, and ends this one with the rest.
        std::thread::sleep(Duration::from_secs(1));
    }
    let mut digits = [0; 20];
    let (asked, bytes) = if size == 0 { ("", "") } else { (": ", " bytes were asked for") };
    let number = if size == 0 { "" } else { decimal(size, &mut digits) };
    let parts = ["error: not enough memory", asked, number, bytes, "; ", CURE, "\n"];
    // A single call, so that the lines of two threads do not mix.
    let vectors = parts.map(|part| libc::iovec { iov_base: part.as_ptr().cast_mut().cast(), iov_len: part.len() });
    // SAFETY: the parts are alive, and only read. Unlike `exit`, `_exit` runs no destructors, which might allocate memory and
    // would unload libraries whose threads are still running.
    unsafe {
        libc::writev(2, vectors.as_ptr(), vectors.len() as i32);
        libc::_exit(super::exit_code::FAILED.into())
    }
}

/// A number in decimal digits.
fn decimal(mut number: usize, digits: &mut [u8; 20]) -> &str {
    let mut from = digits.len();
    loop {
        from -= 1;
        digits[from] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return str::from_utf8(&digits[from..]).unwrap_or_default();
        }
    }
}

/// Messages of libraries whose allocations failed.
const SAID: [&str; 5] =
    ["std::bad_alloc", "can't allocate memory", "Cannot allocate memory", "out of memory", "Failed to allocate memory"];

/// Messages of that kind that have other causes too: they count only where the memory of the process is limited.
const MAY_MEAN: [&str; 4] = [
    // A thread cannot be started.
    "Resource temporarily unavailable",
    "failed to map segment from shared object",
    "could not create a primitive",
    "could not execute a primitive",
];

/// The line for an error caused by too little memory, in place of its library's advice.
pub(crate) fn too_little(line: &str) -> Option<String> {
    let may_mean = MAY_MEAN.iter().filter(|_| is_limited());
    let place = SAID.iter().chain(may_mean).find_map(|said| Some(line.find(said)? + said.len()))?;
    // A GPU has limits of its own, and some rooms give a better cure.
    if ["CUDA", "ran out of memory"].iter().any(|said| line.contains(said)) {
        return None;
    }
    Some(format!("not enough memory: {}; {CURE}", &line[..place]))
}

/// Whether the address space of the process is limited (`ulimit -v`).
fn is_limited() -> bool {
    let mut limit = libc::rlimit { rlim_cur: libc::RLIM_INFINITY, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the call writes to a variable of its own type.
    unsafe { libc::getrlimit(libc::RLIMIT_AS, &mut limit) == 0 && limit.rlim_cur != libc::RLIM_INFINITY }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_written_without_memory() {
        let mut digits = [0; 20];
        assert_eq!(decimal(0, &mut digits), "0");
        assert_eq!(decimal(46_881_857, &mut digits), "46881857");
        assert_eq!(decimal(usize::MAX, &mut digits), usize::MAX.to_string());
    }

    #[test]
    fn what_libraries_say_is_known() {
        let line = "ONNX Runtime cannot load the model of m: Exception during loading: std::bad_alloc; export it again";
        let said = too_little(line).unwrap();
        assert!(said.starts_with("not enough memory: ONNX Runtime cannot load the model of m"), "{said}");
        assert!(said.contains("ulimit -v") && !said.contains("export it again"), "{said}");
        assert_eq!(too_little("cannot read a.tsv: No such file or directory"), None);
        assert_eq!(too_little("CUDA out of memory. Tried to allocate 2 GiB"), None);
    }
}
