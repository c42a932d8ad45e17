//! What there is instead of an operating system's library. The only unsafe code around the core.

use core::alloc::{GlobalAlloc, Layout};
use core::arch::{asm, global_asm};
use core::cell::UnsafeCell;
use core::fmt::{self, Write};
use core::panic::PanicInfo;
use core::sync::atomic::{AtomicUsize, Ordering};

const STDOUT: usize = 1;
const STDERR: usize = 2;

/// Writes to the standard output.
pub fn print(text: &str) {
    write(STDOUT, text.as_bytes());
}

/// Writes a number to the standard output.
pub fn print_number(number: u64) {
    // Writing to a descriptor cannot fail in a way that anybody could be told.
    let _ = write!(Descriptor(STDOUT), "{number}");
}

/// Writes a line to the standard error.
pub fn complain(what: &str) {
    let _ = writeln!(Descriptor(STDERR), "freestanding: {what}");
}

struct Descriptor(usize);

impl Write for Descriptor {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        write(self.0, text.as_bytes());
        Ok(())
    }
}

#[panic_handler]
fn panic(info: &PanicInfo<'_>) -> ! {
    let _ = writeln!(Descriptor(STDERR), "{info}");
    exit(101)
}

/// Called by `_start` with what the kernel left on the stack: the number of arguments, then a pointer to each.
#[unsafe(no_mangle)]
extern "C" fn begin(stack: *const usize) -> ! {
    // SAFETY: the kernel lays out argc and argv[0..argc] where a process begins, and every argument ends with a zero byte.
    let forgets = unsafe {
        let count = *stack;
        count > 1 && is_equal(*stack.add(2) as *const u8, b"forget\0")
    };
    exit(crate::run(forgets))
}

/// # Safety
/// `text` must be readable up to its first zero byte.
unsafe fn is_equal(text: *const u8, expected: &[u8]) -> bool {
    // SAFETY: the caller's; reading stops at the first byte that differs, which is the zero byte at the latest.
    expected.iter().enumerate().all(|(at, byte)| unsafe { *text.add(at) } == *byte)
}

/// Memory that is handed out and never taken back: the program is short.
struct Arena {
    memory: UnsafeCell<[u8; ARENA_BYTES]>,
    used: AtomicUsize,
}

const ARENA_BYTES: usize = 64 << 20;

#[global_allocator]
static ARENA: Arena = Arena { memory: UnsafeCell::new([0; ARENA_BYTES]), used: AtomicUsize::new(0) };

// SAFETY: bytes are handed out once, by an atomic counter, so no two borrowers share any.
unsafe impl Sync for Arena {}

// SAFETY: each block lies in the arena, is aligned as asked, and is given to nobody else.
unsafe impl GlobalAlloc for Arena {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let base = self.memory.get() as usize;
        let mut used = self.used.load(Ordering::Relaxed);
        loop {
            let start = (base + used).next_multiple_of(layout.align()) - base;
            let Some(end) = start.checked_add(layout.size()).filter(|end| *end <= ARENA_BYTES) else {
                return core::ptr::null_mut();
            };
            match self.used.compare_exchange(used, end, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return (base + start) as *mut u8,
                Err(now) => used = now,
            }
        }
    }

    unsafe fn dealloc(&self, _block: *mut u8, _layout: Layout) {}
}

// What the compiler calls by these names, with their standard meaning.

/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    for at in 0..count {
        // SAFETY: the caller's: both are valid for `count` bytes.
        unsafe { *to.add(at) = *from.add(at) };
    }
    to
}

/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memmove(to: *mut u8, from: *const u8, count: usize) -> *mut u8 {
    if (to as usize) < from as usize {
        // SAFETY: the caller's; copied from the front, no byte is overwritten before it is read.
        return unsafe { memcpy(to, from, count) };
    }
    for at in (0..count).rev() {
        // SAFETY: the caller's; copied from the back.
        unsafe { *to.add(at) = *from.add(at) };
    }
    to
}

/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, count: usize) -> *mut u8 {
    for at in 0..count {
        // SAFETY: the caller's: valid for `count` bytes. The C function takes the lowest byte of its argument.
        unsafe { *to.add(at) = byte as u8 };
    }
    to
}

/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    for at in 0..count {
        // SAFETY: the caller's: both are valid for `count` bytes.
        let (left, right) = unsafe { (*one.add(at), *other.add(at)) };
        if left != right {
            return i32::from(left) - i32::from(right);
        }
    }
    0
}

/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn bcmp(one: *const u8, other: *const u8, count: usize) -> i32 {
    // SAFETY: the caller's.
    unsafe { memcmp(one, other, count) }
}

/// # Safety
/// As of the C function.
#[unsafe(no_mangle)]
unsafe extern "C" fn strlen(text: *const u8) -> usize {
    let mut length = 0;
    // SAFETY: the caller's: readable up to the first zero byte.
    while unsafe { *text.add(length) } != 0 {
        length += 1;
    }
    length
}

/// `core` is compiled for programs that unwind; this one does not.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

fn write(descriptor: usize, bytes: &[u8]) {
    // SAFETY: `write` reads the bytes and changes nothing in this program.
    unsafe { call(WRITE, descriptor, bytes.as_ptr() as usize, bytes.len()) };
}

fn exit(status: i32) -> ! {
    loop {
        // SAFETY: ends the process. The lowest byte of the status counts.
        unsafe { call(EXIT_GROUP, status as usize, 0, 0) };
    }
}

#[cfg(target_arch = "x86_64")]
const WRITE: usize = 1;
#[cfg(target_arch = "x86_64")]
const EXIT_GROUP: usize = 231;

#[cfg(target_arch = "x86_64")]
global_asm!(".globl _start", "_start:", "xor ebp, ebp", "mov rdi, rsp", "and rsp, -16", "call begin", "ud2");

/// A system call of Linux.
///
/// # Safety
/// That of the call.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, first: usize, second: usize, third: usize) {
    // SAFETY: the caller's; the kernel changes rax, rcx and r11 and nothing else.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => _,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            out("rcx") _,
            out("r11") _,
            options(nostack),
        );
    }
}

#[cfg(target_arch = "aarch64")]
const WRITE: usize = 64;
#[cfg(target_arch = "aarch64")]
const EXIT_GROUP: usize = 94;

#[cfg(target_arch = "aarch64")]
global_asm!(".globl _start", "_start:", "mov x29, #0", "mov x0, sp", "bl begin", "brk #0");

/// A system call of Linux.
///
/// # Safety
/// That of the call.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, first: usize, second: usize, third: usize) {
    // SAFETY: the caller's; the kernel changes x0 and nothing else.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") first => _,
            in("x1") second,
            in("x2") third,
            options(nostack),
        );
    }
}

#[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
compile_error!("the way in, the way out and writing are here for Linux on x86_64 and aarch64 only");
