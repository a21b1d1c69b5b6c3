//! Handles a mapped file that becomes shorter: a page after its new end cannot be read any more, and the
//! kernel sends SIGBUS to the thread that tries.
//!
//! The handler maps zeros in place of the missing pages, marks the region as shortened, and lets the
//! thread continue. No result is used before the mark has been checked ([`super::check_unchanged`]). A
//! SIGBUS anywhere else goes to the handler that was installed before.

#![allow(unsafe_code)] // a signal handler; each use says what it rests on

use std::ffi::{c_int, c_void};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering::SeqCst};

/// A mapped part of the address space that may become shorter.
pub(super) struct Region(&'static Slot);

/// One entry of the list that the handler searches. Entries are used again and never freed, so that
/// the handler needs no lock.
#[derive(Default)]
struct Slot {
    /// A multiple of 4 while a region is watched, 1 more while the entry is free, 3 more while it is
    /// being filled in. A reader that sees the same multiple of 4 before and after reading an entry has
    /// read a consistent one.
    version: AtomicUsize,
    start: AtomicUsize,
    /// The first address after the region, a multiple of the size of a page.
    end: AtomicUsize,
    is_shortened: AtomicBool,
    next: AtomicPtr<Slot>,
}

/// The first entry of the list.
static FIRST: AtomicPtr<Slot> = AtomicPtr::new(std::ptr::null_mut());
/// The handler of SIGBUS that was installed before.
static BEFORE: OnceLock<libc::sigaction> = OnceLock::new();
static PAGE: OnceLock<usize> = OnceLock::new();

impl Region {
    /// Watches `bytes`, which must be a whole map, for as long as the region lives.
    pub(super) fn watch(bytes: &[u8]) -> Self {
        install();
        let slot = free_slot();
        let (start, page) = (bytes.as_ptr() as usize, page_size());
        slot.start.store(start, SeqCst);
        slot.end.store(start + bytes.len().next_multiple_of(page), SeqCst);
        slot.is_shortened.store(false, SeqCst);
        slot.version.fetch_add(1, SeqCst);
        Self(slot)
    }

    /// Whether a page of the region was read that the file no longer has.
    pub(super) fn is_shortened(&self) -> bool {
        self.0.is_shortened.load(SeqCst)
    }
}

impl Drop for Region {
    fn drop(&mut self) {
        self.0.version.fetch_add(1, SeqCst);
    }
}

/// An entry that is not in use, marked as being filled in.
fn free_slot() -> &'static Slot {
    for slot in slots() {
        let version = slot.version.load(SeqCst);
        if version % 4 == 1 && slot.version.compare_exchange(version, version + 2, SeqCst, SeqCst).is_ok() {
            return slot;
        }
    }
    let slot = Box::leak(Box::new(Slot { version: AtomicUsize::new(3), ..Slot::default() }));
    let mut first = FIRST.load(SeqCst);
    loop {
        slot.next.store(first, SeqCst);
        match FIRST.compare_exchange(first, slot, SeqCst, SeqCst) {
            Ok(_) => return slot,
            Err(other) => first = other,
        }
    }
}

fn slots() -> impl Iterator<Item = &'static Slot> {
    // SAFETY: the pointers are null or come from `Box::leak`, so what they point to lives for ever.
    let at = |pointer: &AtomicPtr<Slot>| unsafe { pointer.load(SeqCst).as_ref() };
    std::iter::successors(at(&FIRST), move |slot| at(&slot.next))
}

fn page_size() -> usize {
    // SAFETY: sysconf only reads.
    *PAGE.get_or_init(|| usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096))
}

/// Installs the handler, once.
fn install() {
    BEFORE.get_or_init(|| {
        page_size();
        // SAFETY: a sigaction of zeros is valid: the default action, no flags, an empty mask. The
        // handler has the signature that SA_SIGINFO asks for, and calls nothing but mmap and signal,
        // which are system calls, and functions over atomics.
        unsafe {
            let mut action: libc::sigaction = std::mem::zeroed();
            let mut before: libc::sigaction = std::mem::zeroed();
            action.sa_sigaction = on_sigbus as *const () as usize;
            action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK | libc::SA_RESTART;
            libc::sigaction(libc::SIGBUS, &action, &mut before);
            before
        }
    });
}

/// Runs in the thread that touched the page, in place of the read, which is then tried again.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: with SA_SIGINFO the kernel gives a valid pointer; a positive code says that the signal
    // is from a memory access and has its address.
    let address = unsafe { ((*info).si_code > 0).then(|| (*info).si_addr() as usize) };
    if !address.is_some_and(fill) {
        pass_on(signal, info, context);
    }
}

/// Maps zeros in place of a region's pages from the one at `address` on: a file without that page has
/// none after it. Returns `false` where the address is in no region.
fn fill(address: usize) -> bool {
    for slot in slots() {
        let version = slot.version.load(SeqCst);
        let (start, end) = (slot.start.load(SeqCst), slot.end.load(SeqCst));
        if version % 4 != 0 || slot.version.load(SeqCst) != version || !(start..end).contains(&address) {
            continue;
        }
        let page = address - address % page_size();
        // SAFETY: the pages are of a map that the interrupted thread is reading, so it is not unmapped
        // meanwhile; nothing else lies between `page` and the end of the map. Readers see zeros, which
        // are as valid as the file's bytes were. errno, which mmap may set, is put back.
        let filled = unsafe {
            let errno = *libc::__errno_location();
            let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
            let filled = libc::mmap(page as *mut c_void, end - page, libc::PROT_READ, flags, -1, 0);
            *libc::__errno_location() = errno;
            filled
        };
        slot.is_shortened.store(true, SeqCst);
        return filled != libc::MAP_FAILED;
    }
    false
}

/// Does what the process would have done without this handler.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    type WithInfo = extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void);
    let default = |signal| {
        // SAFETY: the default action is always valid; the access is tried again and ends the process.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    };
    match BEFORE.get() {
        Some(before) if ![libc::SIG_DFL, libc::SIG_IGN].contains(&before.sa_sigaction) => {
            // SAFETY: the kernel held this address as the handler of SIGBUS, of the kind that its
            // flags say.
            unsafe {
                if before.sa_flags & libc::SA_SIGINFO != 0 {
                    std::mem::transmute::<usize, WithInfo>(before.sa_sigaction)(signal, info, context);
                } else {
                    std::mem::transmute::<usize, extern "C" fn(c_int)>(before.sa_sigaction)(signal);
                }
            }
        }
        _ => default(signal),
    }
}
