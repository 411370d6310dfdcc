//! Checks that must run before libtorch is loaded. Its initializers, which the loader runs before `main`, end the program
//! in a folder that was deleted (with an error from MKL) and crash where less memory may be allocated than they need.

/// Bytes that libtorch's initializers may need beyond what is already mapped: a lower limit crashes them.
const NEEDED: usize = 64 << 20;

const NO_FOLDER: &str = "error: the current folder cannot be used (it was deleted, or may not be read); change to one that exists \
                         and run this again\n";
const NO_MEMORY: &str =
    "error: not enough memory to load libtorch; raise the limit (ulimit -v, that of the container or the job)\n";

/// Run by the loader before the initializers of all libraries.
#[used]
#[unsafe(link_section = ".preinit_array")]
static LOOK: extern "C" fn() = look;

extern "C" fn look() {
    let mut path = [0_u8; libc::PATH_MAX as usize];
    // SAFETY: the call writes a path of at most this length. It depends on nothing that must be initialized first.
    if unsafe { libc::getcwd(path.as_mut_ptr().cast(), path.len()) }.is_null() {
        end(NO_FOLDER);
    }
    let (access, flags) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE);
    // SAFETY: fresh pages that nothing else uses, unmapped at once.
    unsafe {
        let pages = libc::mmap(std::ptr::null_mut(), NEEDED, access, flags, -1, 0);
        if pages == libc::MAP_FAILED {
            end(NO_MEMORY);
        }
        libc::munmap(pages, NEEDED);
    }
}

fn end(line: &str) -> ! {
    // SAFETY: the line is alive and only read; no cleanup is left to do.
    unsafe {
        libc::write(2, line.as_ptr().cast(), line.len());
        libc::_exit(1)
    }
}
