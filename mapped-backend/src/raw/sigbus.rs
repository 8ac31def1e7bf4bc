//! A RAM file that shrinks under its mapping: `SIGBUS`, turned into an error for those who ask for it.
//!
//! A load beyond the end of a mapped file raises `SIGBUS`, and a process that does not handle it dies. The handler here
//! puts zero pages under the mapping in which the load faulted and raises a flag first, so that the load goes on and
//! whoever made it finds the flag afterwards and reports [`PhysErrorKind::Lost`](vgpu_perception::PhysErrorKind::Lost)
//! instead of zeros. Any other `SIGBUS` goes to the handler that was there before.

use core::ffi::{c_int, c_void};
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering, fence};
use std::io;
use std::sync::{Mutex, OnceLock, PoisonError};

use rustix::mm::{MapFlags, ProtFlags};

/// The most files that can be guarded at one time.
pub const MAX_GUARDED: usize = 1024;

/// Proof that the handler of this crate is installed for `SIGBUS` in this process.
///
/// Handed to [`RamOptions::guard`](crate::RamOptions::guard), it makes the loss of a RAM file an error instead of the
/// end of the process. It is opt-in since signal handlers belong to the whole process: a program that installs its own
/// handler for `SIGBUS` later takes this one out of service, unless it passes on what is not its own.
#[derive(Clone, Copy, Debug)]
pub struct SigbusGuard(());

/// One watched mapping. All fields change only under `CLAIMS` and between two steps of `version`, odd while it does.
struct Slot {
    version: AtomicUsize,
    start: AtomicUsize,
    len: AtomicUsize,
    /// The slot whose flag is raised: one for all the mappings of a guest.
    leader: AtomicUsize,
    lost: AtomicBool,
}

static SLOTS: [Slot; MAX_GUARDED] = [const {
    Slot {
        version: AtomicUsize::new(0),
        start: AtomicUsize::new(0),
        len: AtomicUsize::new(0),
        leader: AtomicUsize::new(0),
        lost: AtomicBool::new(false),
    }
}; MAX_GUARDED];

/// Serialises those who change slots; the handler never takes it.
static CLAIMS: Mutex<()> = Mutex::new(());

/// What handled `SIGBUS` before.
static PREVIOUS: OnceLock<libc::sigaction> = OnceLock::new();

impl Slot {
    fn change(&self, start: usize, len: usize, leader: usize) {
        let version = self.version.load(Ordering::Relaxed);
        self.version.store(version.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        self.start.store(start, Ordering::Relaxed);
        self.len.store(len, Ordering::Relaxed);
        self.leader.store(leader, Ordering::Relaxed);
        self.lost.store(false, Ordering::Relaxed);
        self.version.store(version.wrapping_add(2), Ordering::Release);
    }

    /// The mapping in this slot and its leader, where it holds `address`.
    fn holds(&self, address: usize) -> Option<(usize, usize, usize)> {
        let version = self.version.load(Ordering::Acquire);
        let (start, len) = (self.start.load(Ordering::Relaxed), self.len.load(Ordering::Relaxed));
        let leader = self.leader.load(Ordering::Relaxed);
        fence(Ordering::Acquire);
        // A slot that changes right now is not the one of a load that is under way: its mapping is borrowed.
        let stable = version.is_multiple_of(2) && version == self.version.load(Ordering::Relaxed);
        (stable && address.wrapping_sub(start) < len).then_some((start, len, leader))
    }
}

/// A mapping that the handler knows; it forgets it when this is dropped.
pub(crate) struct Watch {
    slot: &'static Slot,
    leader: usize,
}

impl Watch {
    /// The flag that is raised when a load of this mapping, or of another of its guest, found nothing.
    pub(crate) fn lost(&self) -> &'static AtomicBool {
        SLOTS.get(self.leader).map_or(&self.slot.lost, |slot| &slot.lost)
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _claim = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        self.slot.change(0, 0, 0);
    }
}

/// There is no slot left.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Full;

impl SigbusGuard {
    /// Installs the handler, once; later calls only give the proof again.
    ///
    /// # Errors
    /// What `sigaction(2)` answered.
    pub fn install() -> io::Result<Self> {
        static INSTALLED: Mutex<bool> = Mutex::new(false);
        let mut installed = INSTALLED.lock().unwrap_or_else(PoisonError::into_inner);
        if !*installed {
            // Known before the handler can run, which reads it.
            let previous = previous_action()?;
            let _ = PREVIOUS.set(previous);
            install_handler()?;
            *installed = true;
        }
        Ok(Self(()))
    }

    pub(super) fn watch(self, base: NonNull<u8>, len: usize, leader: Option<&Watch>) -> Result<Watch, Full> {
        let _claim = CLAIMS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut slots = SLOTS.iter().enumerate();
        let (index, slot) = slots.find(|(_, slot)| slot.len.load(Ordering::Relaxed) == 0).ok_or(Full)?;
        let leader = leader.map_or(index, |watch| watch.leader);
        slot.change(base.as_ptr().addr(), len, leader);
        Ok(Watch { slot, leader })
    }
}

fn previous_action() -> io::Result<libc::sigaction> {
    // SAFETY: `sigaction` is a plain C structure of integers and a nullable pointer; all zero is a value of it.
    let mut previous: libc::sigaction = unsafe { core::mem::zeroed() };
    // SAFETY: a null new action asks only; the old one goes to a live variable of the right type.
    let asked = unsafe { libc::sigaction(libc::SIGBUS, ptr::null(), &raw mut previous) };
    if asked == 0 { Ok(previous) } else { Err(io::Error::last_os_error()) }
}

fn install_handler() -> io::Result<()> {
    let handler: extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void) = on_sigbus;
    // SAFETY: as in `previous_action`: all zero is a value of the structure.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    // On the alternate stack where the thread has one: the load may have come from a thread with little stack.
    action.sa_flags = libc::SA_SIGINFO | libc::SA_ONSTACK;
    // SAFETY: `action` is complete (an all-zero mask is the empty one), its handler has the three-argument form that
    // SA_SIGINFO asks for and calls only what a signal handler may.
    let set = unsafe { libc::sigaction(libc::SIGBUS, &raw const action, ptr::null_mut()) };
    if set == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Runs in a signal handler: it uses atomics and system calls, takes no lock and allocates nothing.
extern "C" fn on_sigbus(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void) {
    // SAFETY: the kernel hands a handler of the SA_SIGINFO form a structure that lives until it returns.
    let told = unsafe { &*info };
    // A code above 0 is a fault of this thread; else another process sent the signal and there is no address.
    let fault = told.si_code > 0;
    if fault {
        // SAFETY: a SIGBUS that the kernel raised for a fault carries an address.
        let address = unsafe { told.si_addr() }.addr();
        if rescue(address) {
            return;
        }
    }
    pass_on(signal, info, context, fault);
}

/// Puts zeros under the watched mapping that holds `address`.
fn rescue(address: usize) -> bool {
    for slot in &SLOTS {
        let Some((start, len, leader)) = slot.holds(address) else { continue };
        // Raised first, and visible before the zeros are: see `Space::still_there`.
        let Some(leader) = SLOTS.get(leader) else { return false };
        leader.lost.store(true, Ordering::SeqCst);
        let flags = MapFlags::PRIVATE | MapFlags::FIXED | MapFlags::NORESERVE;
        // SAFETY: the range is a mapping that this crate made and watches. The load that faulted borrows it, so it is
        // not unmapped meanwhile. Its bytes may change at any time, and this is one more such change. Replacing all of
        // it in one call works for huge pages too, which could not be replaced one small page at a time.
        let zeros =
            unsafe { rustix::mm::mmap_anonymous(ptr::without_provenance_mut(start), len, ProtFlags::READ, flags) };
        return zeros.is_ok();
    }
    false
}

/// Does with the signal what would have been done without this handler.
fn pass_on(signal: c_int, info: *mut libc::siginfo_t, context: *mut c_void, fault: bool) {
    let Some(previous) = PREVIOUS.get() else { return };
    match previous.sa_sigaction {
        libc::SIG_IGN if !fault => {}
        libc::SIG_DFL | libc::SIG_IGN => {
            // SAFETY: as in `previous_action`: all zero is a value, and it means the default action.
            let default: libc::sigaction = unsafe { core::mem::zeroed() };
            // SAFETY: `default` is a live, complete action; `sigaction` may be called in a handler (signal-safety(7)).
            unsafe { libc::sigaction(signal, &raw const default, ptr::null_mut()) };
            if !fault {
                // A fault happens again by itself on return; a signal that was sent has to be sent again.
                // SAFETY: `raise` may be called in a handler (signal-safety(7)) and takes no pointer.
                unsafe { libc::raise(signal) };
            }
        }
        handler if previous.sa_flags & libc::SA_SIGINFO != 0 => {
            // SAFETY: whoever installed this action with SA_SIGINFO gave a function of this form, and it is not one of
            // the two special numbers.
            let handler = unsafe {
                core::mem::transmute::<libc::sighandler_t, extern "C" fn(c_int, *mut libc::siginfo_t, *mut c_void)>(
                    handler,
                )
            };
            handler(signal, info, context);
        }
        handler => {
            // SAFETY: whoever installed this action without SA_SIGINFO gave a function of one argument.
            let handler = unsafe { core::mem::transmute::<libc::sighandler_t, extern "C" fn(c_int)>(handler) };
            handler(signal);
        }
    }
}
