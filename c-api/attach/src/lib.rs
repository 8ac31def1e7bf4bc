//! The second C library: attaches to a guest by its name, and hands its memory to the first as a `vgpux_reader`.
//!
//! `include/vgpu_perception_attach.h` declares it. Raw pointers are followed in [`ffi`] and nowhere else.
#![deny(unsafe_code)]

mod ffi;

use core::cell::RefCell;
use core::ffi::c_int;
use core::fmt::Display;

use vgpu_perception::{Gpa, PAGE_BYTES, PhysRead, PhysRun};
use vgpu_perception_host::attach::{Attachment, attach};
use vgpu_perception_host::{Ram, Shared};

use ffi::{ReaderC, SegC};

/// A `vgpua_guest`.
#[derive(Debug)]
pub(crate) struct Guest {
    ram: Shared<Ram>,
    reader: ReaderC,
    segs: Vec<SegC>,
    root: u64,
}

std::thread_local! {
    static LAST: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Remembers why a call failed.
fn failed(error: impl Display) {
    let _ = LAST.try_with(|last| *last.borrow_mut() = error.to_string());
}

/// The last failure's text.
fn last() -> String {
    LAST.try_with(|last| last.borrow().clone()).unwrap_or_default()
}

impl Guest {
    fn attach(name: &str) -> Option<Self> {
        let attached = name.parse().and_then(|spec| attach(&spec));
        match attached {
            Ok(attachment) => Some(Self::of(&attachment)),
            Err(error) => {
                failed(error);
                None
            }
        }
    }

    fn of(attachment: &Attachment) -> Self {
        let ram = attachment.ram.clone();
        let seg = |gpa: Gpa, len: u64| SegC { gpa: gpa.get(), len, file_off: 0 };
        let segs = match &*ram {
            Ram::Mapped(ram) => ram.map().segments().iter().map(|segment| seg(segment.gpa, segment.len)).collect(),
            Ram::Process(ram) => ram.pieces().map(|piece| seg(piece.gpa, piece.len)).collect(),
            // Another kind: where its data is says enough.
            _ => Vec::new(),
        };
        let root = attachment.root.map_or(0, |root| root.get());
        let reader = ReaderC::new(ram.batch());
        Self { ram, reader, segs, root }
    }

    fn read(&self, gpa: u64, dst: &mut [u8]) -> c_int {
        let gpa = Gpa::new(gpa);
        // A request for one word is one load of it.
        let read = match <&mut [u8; 8]>::try_from(&mut *dst) {
            Ok(word) if gpa.get().is_multiple_of(8) => self.ram.load_u64(gpa).map(|value| *word = value.to_le_bytes()),
            _ => match <&mut [u8; 4]>::try_from(&mut *dst) {
                Ok(word) if gpa.get().is_multiple_of(4) => {
                    self.ram.load_u32(gpa).map(|value| *word = value.to_le_bytes())
                }
                _ => self.ram.read(gpa, dst),
            },
        };
        code(read)
    }

    /// Copies pieces whose bytes lie one after the other in `dst`.
    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8]) -> c_int {
        let hint = vgpu_perception::CopyHint {
            total: dst.len() as u64,
            next_use: vgpu_perception::NextUse::Unknown,
            policy: vgpu_perception::CopyPolicy::Auto,
        };
        code(self.ram.read_runs(runs, dst, hint))
    }

    fn read_words(&self, gpa: u64, words: &mut [u64]) -> c_int {
        code(self.ram.load_words(Gpa::new(gpa), words))
    }

    fn load_lines(&self, at: &[Gpa], lines: &mut [[u64; 8]]) -> usize {
        self.ram.load_lines(at, lines).unwrap_or_else(|error| {
            failed(error);
            0
        })
    }

    /// The first stretch of data at or after `from`: whole pages.
    fn next_data(&self, from: u64) -> Result<Option<(u64, u64)>, c_int> {
        match self.ram.next_extent(Gpa::new(from)) {
            Ok(extent) => Ok(extent.map(|extent| (extent.start.get(), extent.len / PAGE_BYTES * PAGE_BYTES))),
            Err(error) => {
                failed(error);
                Err(-1)
            }
        }
    }
}

/// What a `vgpux_reader` returns.
fn code(read: Result<(), impl Display>) -> c_int {
    read.map_or_else(
        |error| {
            failed(error);
            -1
        },
        |()| 0,
    )
}
