//! The boundary's own tests.

use super::*;

/// What a test's callback was given as its context.
pub(crate) fn context<'t, T>(ctx: *mut c_void) -> &'t T {
    // SAFETY: tests pass a pointer to a `T` that outlives the handle.
    unsafe { &*ctx.cast::<T>().cast_const() }
}

/// A context to pass to a callback.
pub(crate) const fn out<T>(at: *const T) -> Out<c_void> {
    Out(at.cast_mut().cast())
}

struct Counter(u32);
impl Object for Counter {
    const MAGIC: u64 = 7;
    const NAME: &'static str = "counter";
    const STORAGE: usize = 64;
}

#[repr(C, align(16))]
struct Storage([u8; 64]);

#[test]
fn handles_are_checked_before_they_are_used() {
    let handle = Handle::boxed(Counter(1)).unwrap();
    assert_eq!(handle.read(|counter| Ok(counter.0)).unwrap(), 1);
    let busy = handle.update(|counter| {
        counter.0 += 1;
        Ok((handle.read(|_| Ok(())).unwrap_err().code, handle.close().unwrap_err().code))
    });
    assert_eq!(busy.unwrap(), (code::BUSY, code::BUSY));
    let nested = handle.read(|_| handle.read(|counter| Ok((counter.0, handle.update(|_| Ok(())).is_err()))));
    assert_eq!(nested.unwrap(), (2, true));
    handle.close().unwrap();
    assert_eq!(handle.read(|_| Ok(())).unwrap_err().code, code::HANDLE);
    assert_eq!(handle.close().unwrap_err().code, code::HANDLE);
    assert_eq!(Handle::<Counter>::NULL.read(|_| Ok(())).unwrap_err().code, code::HANDLE);
    assert!(Handle::<Counter>::NULL.close().is_ok());
    let wild = Handle::<Counter>(core::ptr::without_provenance_mut(0x1235), PhantomData);
    assert_eq!(wild.read(|_| Ok(())).unwrap_err().code, code::HANDLE);
}

#[test]
fn storage_is_checked_and_can_be_used_again() {
    let mut storage = Storage([0; 64]);
    let at = Out::<c_void>(storage.0.as_mut_ptr().cast());
    assert_eq!(Handle::place(at, 63, Counter(1)).err().unwrap().code, code::MEMORY);
    let odd = Out::<c_void>(storage.0.as_mut_ptr().wrapping_add(8).cast());
    assert_eq!(Handle::place(odd, 64, Counter(1)).err().unwrap().code, code::ARGUMENT);
    let handle = Handle::place(at, 64, Counter(5)).unwrap();
    assert_eq!(Handle::place(at, 64, Counter(1)).err().unwrap().code, code::ARGUMENT);
    assert_eq!(handle.update(|counter| Ok(counter.0)).unwrap(), 5);
    handle.close().unwrap();
    assert!(handle.read(|_| Ok(())).is_err());
    Handle::place(at, 64, Counter(1)).unwrap().close().unwrap();
}

#[test]
fn a_panic_becomes_a_code() {
    let handle = Handle::boxed(Counter(1)).unwrap();
    let code: c_int = guarded(|| handle.update(|_| -> Result<c_int, Failure> { panic!("on purpose") }));
    assert_eq!(code, code::INTERNAL);
    assert!(handle.update(|_| Ok(())).is_ok(), "the hold was given up");
    handle.close().unwrap();
}

#[test]
fn pointers_are_checked() {
    let mut words = [0_u64; 2];
    let at = words.as_mut_ptr();
    assert!(Out(at).required("out").is_ok());
    let text = |out: Out<u64>| {
        assert_eq!(out.required("out").err().unwrap().code, code::ARGUMENT);
        crate::failure::last().text
    };
    assert_eq!(text(Out(core::ptr::null_mut())), "out is NULL");
    let odd = at.wrapping_byte_add(1);
    assert_eq!(text(Out(odd)), "out is misaligned");
    assert!(Out(at).array(usize::MAX / 4, "out").is_err());
    assert!(Out(core::ptr::null_mut::<u64>()).array(0, "out").is_ok());
    Out(at).array(1, "out").unwrap().put(1, 9);
    assert_eq!(words[1], 0, "beyond the array nothing is stored");
}

#[test]
fn scratch_memory_is_split_without_overlap() {
    let mut scratch = Scratch::new(1);
    assert_eq!(scratch.len(), Scratch::MIN);
    let (a, b) = scratch.split(3, [7_u8; 10], 0x55_u64);
    assert_eq!((a.len(), b.len()), (3, (Scratch::MIN - 32) / 8));
    b.fill(u64::MAX);
    assert!(a.iter().all(|word| *word == [7; 10]));
    let (a, b) = scratch.split(usize::MAX, 1_u64, 2_u64);
    assert_eq!((a.len(), b.len()), (Scratch::MIN / 8, 0));
}
