//! The kernel's image, as far as it has to be read: headers and exports. The format is that of Microsoft's public "PE
//! Format" specification, 64-bit images ("PE32+").

use core::cmp::Ordering;

use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use super::memory::wire;
use crate::addr::Gva;
use crate::paging::{NotPresentResolver, PageWalker};
use crate::phys::PhysRead;
use crate::process::Step;

/// The DOS header: the mark, and where the headers proper are.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct DosHeader {
    mark: [u8; 2],
    unused: [u8; 58],
    headers_at: U32,
}

/// Mark, file header and the part of the optional header up to the first data directory, which is that of the exports.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct Headers {
    mark: [u8; 4],
    machine: U16,
    sections: U16,
    file: [u8; 16],
    magic: U16,
    optional: [u8; 54],
    image_bytes: U32,
    more: [u8; 48],
    directories: U32,
    exports_at: U32,
    exports_bytes: U32,
}

static_assertions::const_assert_eq!(size_of::<DosHeader>(), 64);
static_assertions::const_assert_eq!(core::mem::offset_of!(Headers, magic), 24);
static_assertions::const_assert_eq!(core::mem::offset_of!(Headers, image_bytes), 24 + 56);
static_assertions::const_assert_eq!(core::mem::offset_of!(Headers, directories), 24 + 108);
static_assertions::const_assert_eq!(core::mem::offset_of!(Headers, exports_at), 24 + 112);

/// The export directory.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct ExportDirectory {
    unused: [u8; 12],
    image_name: U32,
    first_number: U32,
    functions: U32,
    names: U32,
    functions_at: U32,
    names_at: U32,
    numbers_at: U32,
}

static_assertions::const_assert_eq!(size_of::<ExportDirectory>(), 40);

/// `IMAGE_FILE_MACHINE_AMD64`.
const AMD64: u16 = 0x8664;
/// The optional header of 64-bit images.
const PE32_PLUS: u16 = 0x20b;
/// Where the headers may lie.
const HEADERS_END: u32 = 0x800;
/// What the kernel's export directory calls it, on single and multiprocessor kernels alike.
const KERNEL_NAME: &[u8; 13] = b"ntoskrnl.exe\0";
/// Sizes that a kernel can have: real ones are 5 to 20 MiB.
const IMAGE_BYTES: core::ops::RangeInclusive<u32> = 0x10_0000..=0x1000_0000;
/// Names that are looked at: real kernels export about 3000.
const NAMES: u32 = 1 << 14;
/// The longest name that is asked for, with its zero.
const NAME_BYTES: usize = 32;

/// A kernel image in guest memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct KernelImage {
    /// Its first byte.
    pub base: Gva,
    /// `SizeOfImage`, in bytes.
    pub bytes: u32,
    exports_at: u32,
    exports_bytes: u32,
}

impl KernelImage {
    /// Whether the page at `base` starts an image that calls itself `ntoskrnl.exe`.
    ///
    /// # Bound
    /// Four reads of at most 152 bytes.
    pub(super) fn read<M: PhysRead, R: NotPresentResolver>(walker: &PageWalker<M, R>, base: Gva) -> Option<Self> {
        let dos: DosHeader = wire(walker, base).ok()?;
        let at = dos.headers_at.get();
        if dos.mark != *b"MZ" || at > HEADERS_END {
            return None;
        }
        let headers: Headers = wire(walker, base.checked_add(at.into())?).ok()?;
        let bytes = headers.image_bytes.get();
        let sound = headers.mark == *b"PE\0\0"
            && headers.machine.get() == AMD64
            && headers.magic.get() == PE32_PLUS
            && IMAGE_BYTES.contains(&bytes)
            && headers.directories.get() > 0;
        let (exports_at, exports_bytes) = (headers.exports_at.get(), headers.exports_bytes.get());
        base.checked_add(bytes.into())?;
        let image = Self { base, bytes, exports_at, exports_bytes };
        if !sound || exports_bytes < 40 || !image.holds(exports_at, exports_bytes) {
            return None;
        }
        let directory: ExportDirectory = wire(walker, image.at(exports_at)).ok()?;
        let mut name = [0; KERNEL_NAME.len()];
        image.bytes_at(walker, directory.image_name.get(), &mut name)?;
        name.eq_ignore_ascii_case(KERNEL_NAME).then_some(image)
    }

    const fn at(&self, rva: u32) -> Gva {
        // Below 2^64, since the end of the image is.
        self.base.wrapping_add(rva as u64)
    }

    /// Whether `len` bytes at `rva` are inside.
    fn holds(&self, rva: u32, len: u32) -> bool {
        rva.checked_add(len).is_some_and(|end| end <= self.bytes)
    }

    /// Whether an address is inside.
    pub(super) fn contains(&self, gva: Gva) -> bool {
        gva.get().checked_sub(self.base.get()).is_some_and(|offset| offset < u64::from(self.bytes))
    }

    fn bytes_at<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        rva: u32,
        dst: &mut [u8],
    ) -> Option<()> {
        let len = u32::try_from(dst.len()).ok()?;
        if !self.holds(rva, len) {
            return None;
        }
        walker.read(self.at(rva), dst).ok()
    }

    fn sorted<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        directory: &ExportDirectory,
        count: u32,
        name: &[u8],
    ) -> Option<u32> {
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.midpoint(high);
            match self.compare(walker, directory, middle, name)? {
                Ordering::Equal => return Some(middle),
                Ordering::Less => low = middle.wrapping_add(1),
                Ordering::Greater => high = middle,
            }
        }
        None
    }

    /// How the name of that index compares with `name`.
    fn compare<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        directory: &ExportDirectory,
        index: u32,
        name: &[u8],
    ) -> Option<Ordering> {
        let mut rva = [0; 4];
        self.bytes_at(walker, directory.names_at.get().checked_add(index.checked_mul(4)?)?, &mut rva)?;
        let rva = u32::from_le_bytes(rva);
        let room = usize::try_from(self.bytes.checked_sub(rva)?).ok()?.min(NAME_BYTES);
        let mut text = [0; NAME_BYTES];
        let text = text.get_mut(..room)?;
        self.bytes_at(walker, rva, text)?;
        let text = text.split(|byte| *byte == 0).next()?;
        Some(text.cmp(name))
    }

    /// Where the variable of that index lies.
    fn variable<M: PhysRead, R: NotPresentResolver>(
        &self,
        walker: &PageWalker<M, R>,
        directory: &ExportDirectory,
        index: u32,
    ) -> Option<Gva> {
        let mut number = [0; 2];
        self.bytes_at(walker, directory.numbers_at.get().checked_add(index.checked_mul(2)?)?, &mut number)?;
        let number = u32::from(u16::from_le_bytes(number));
        if number >= directory.functions.get() {
            return None;
        }
        let mut rva = [0; 4];
        self.bytes_at(walker, directory.functions_at.get().checked_add(number.checked_mul(4)?)?, &mut rva)?;
        let rva = u32::from_le_bytes(rva);
        // What lies in the directory itself is the name of something in another image.
        let forwarded = rva.checked_sub(self.exports_at).is_some_and(|offset| offset < self.exports_bytes);
        (!forwarded && self.holds(rva, 8)).then(|| self.at(rva))
    }
}

/// A search for a variable among the exports of an image: resumable.
///
/// Names are sorted; where that leads nowhere (a page of the directory that cannot be read, for example), each is
/// looked at.
///
/// # Bound
/// 2^14 names, each a number of 4 and a text of 32 bytes; [`Exports::PIECE`] of them in a step.
#[derive(Clone, Copy, Debug)]
pub(super) struct Exports {
    image: KernelImage,
    name: &'static [u8],
    /// The next name of those that are looked at one by one; `None` before that.
    next: Option<u32>,
}

impl Exports {
    const PIECE: u32 = 64;

    pub(super) const fn new(image: KernelImage, name: &'static [u8]) -> Self {
        Self { image, name, next: None }
    }

    pub(super) const fn image(&self) -> KernelImage {
        self.image
    }

    /// Looks at a few names. `Found(None)`: there is such a name, and no variable.
    pub(super) fn step<M: PhysRead, R: NotPresentResolver>(&mut self, walker: &PageWalker<M, R>) -> Step<Option<Gva>> {
        let image = &self.image;
        let Ok(directory) = wire::<ExportDirectory, _, _>(walker, image.at(image.exports_at)) else {
            return Step::Done;
        };
        let count = directory.names.get().min(NAMES);
        let found = match self.next {
            None => {
                self.next = Some(0);
                image.sorted(walker, &directory, count, self.name)
            }
            Some(next) => {
                let end = next.saturating_add(Self::PIECE).min(count);
                self.next = Some(end);
                if next >= end {
                    return Step::Done;
                }
                (next..end).find(|at| image.compare(walker, &directory, *at, self.name) == Some(Ordering::Equal))
            }
        };
        found.map_or(Step::Pending, |index| Step::Found(image.variable(walker, &directory, index)))
    }
}
