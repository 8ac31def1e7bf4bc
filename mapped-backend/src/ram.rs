//! The RAM of one guest: its files, mapped by its segment map.

use core::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use vgpu_perception::{
    CopyHint, CopyPolicy, Extent, Gpa, PAGE_BYTES, PageKind, PhysError, PhysErrorKind, PhysRead, PhysRun, Window,
};
use zerocopy::FromBytes;

use crate::error::OpenError;
use crate::file::{DataError, RamFile};
use crate::machine::{Machine, MachineOptions};
use crate::map::{MapError, Segment, SegmentMap};
use crate::plan::Calibration;
use crate::raw::{MAX_GUARDED, MappedView, Mapping, Placed, SigbusGuard, Space};

/// What is asked of RAM files beyond their being readable.
#[derive(Clone, Copy, Debug, Default)]
pub struct RamOptions {
    require_sealed: bool,
    allow_empty: bool,
    guard: Option<SigbusGuard>,
}

impl RamOptions {
    /// Nothing more: files need no seal, must hold data, and are not guarded.
    #[must_use]
    pub const fn new() -> Self {
        Self { require_sealed: false, allow_empty: false, guard: None }
    }

    /// Refuses files that could shrink: every one has to be a memfd with `F_SEAL_SHRINK`.
    #[must_use]
    pub const fn require_sealed(mut self) -> Self {
        self.require_sealed = true;
        self
    }

    /// Takes files in which nothing was ever written: an embedder that maps a guest's RAM before it boots wants this.
    #[must_use]
    pub const fn allow_empty(mut self) -> Self {
        self.allow_empty = true;
        self
    }

    /// Makes the loss of a file that shrinks a [`PhysErrorKind::Lost`] instead of the end of the process.
    ///
    /// Nothing that was lost is ever given as zeros. Once it happened, reads of the guest's other bytes fail as well,
    /// but for single words that are still there: open its RAM anew.
    #[must_use]
    pub const fn guard(mut self, guard: SigbusGuard) -> Self {
        self.guard = Some(guard);
        self
    }
}

/// The RAM of a guest, in one or several files that are mapped `MAP_SHARED` and read-only.
///
/// # When a file shrinks
///
/// A load from a mapped page that its file no longer has ends the process with `SIGBUS`. There are three ways to meet
/// this: files that cannot shrink ([`RamOptions::require_sealed`]), asking before a long piece of work
/// ([`check`](Self::check), which leaves a gap), and a signal handler that the program opts into
/// ([`RamOptions::guard`]).
///
/// # Buffers
///
/// Any buffer will do. A frame that lies together in RAM is copied fastest into one that begins at a page; a large
/// `Vec` begins 16 bytes after one, and that takes up to a quarter longer.
///
/// # How frames are copied
///
/// [`copy_methods`](crate::copy_methods) lists the methods. Unless the caller fixes one (`CopyPolicy::Fixed`), the
/// first frames of each kind try them, the fastest is kept, and now and then another is tried again: at most 5 % beyond
/// the best method in the first 100 frames, 1 % afterwards. Where the caller reads the copy at once, a trial reads it
/// too, to know what that takes.
pub struct GuestRam {
    space: Space,
    files: Box<[RamFile]>,
    map: SegmentMap,
}

impl fmt::Debug for GuestRam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GuestRam").field("files", &self.files).field("map", &self.map).finish_non_exhaustive()
    }
}

impl GuestRam {
    /// Maps `files` as `map` says, each whole and once; segments name them by their place in `files`.
    ///
    /// # Errors
    /// [`OpenError`] that names the file and the numbers that do not fit.
    pub fn new(files: Vec<RamFile>, map: SegmentMap, options: RamOptions) -> Result<Self, OpenError> {
        for segment in map.segments() {
            let Some(file) = files.get(segment.file) else {
                return Err(OpenError::NoSuchFile { segment: *segment, files: files.len() });
            };
            if segment.offset > file.len() || segment.len > file.len() - segment.offset {
                return Err(OpenError::TooShort { path: file.path().into(), segment: *segment, len: file.len() });
            }
        }
        if let Some(file) = files.iter().find(|file| options.require_sealed && !file.is_sealed()) {
            return Err(OpenError::NotSealed { path: file.path().into() });
        }
        // Neither the file nor the kernel tells which huge pages exist, so that nothing could be passed over.
        if let Some(file) = files.iter().find(|file| file.is_huge() && file.allocated() < file.len()) {
            let (len, allocated) = (file.len(), file.allocated());
            return Err(OpenError::HugeHoles { path: file.path().into(), len, allocated });
        }
        let mut maps = Vec::with_capacity(files.len());
        for file in &files {
            let map = map_file(file, options, &maps)?;
            maps.push(map);
        }
        let placed: Vec<Placed> = map.segments().iter().map(placed).collect();
        // Every segment was found to lie in its file above, and each file was mapped whole.
        let space = Space::new(maps, &placed).ok_or(OpenError::Map(MapError::NoSegments))?;
        let ram = Self { space, files: files.into(), map };
        // A file that shrank between being measured and being mapped is found before anybody reads it.
        ram.check()?;
        if !options.allow_empty {
            ram.refuse_empty()?;
        }
        Ok(ram)
    }

    /// Maps one file as `map` says.
    ///
    /// # Errors
    /// As [`RamFile::open`] and [`new`](Self::new).
    pub fn open(path: impl AsRef<Path>, map: SegmentMap) -> Result<Self, OpenError> {
        Self::new(vec![RamFile::open(path)?], map, RamOptions::new())
    }

    /// Maps all of one file from guest physical 0 on.
    ///
    /// # Errors
    /// As [`open`](Self::open).
    pub fn open_flat(path: impl AsRef<Path>) -> Result<Self, OpenError> {
        let file = RamFile::open(path)?;
        let map = SegmentMap::flat(file.len())?;
        Self::new(vec![file], map, RamOptions::new())
    }

    /// Maps one file that is all the RAM of a `machine`; its length says how much that is.
    ///
    /// # Errors
    /// As [`open`](Self::open), and what [`Machine::map`] gives.
    pub fn open_machine(path: impl AsRef<Path>, machine: Machine, options: MachineOptions) -> Result<Self, OpenError> {
        let file = RamFile::open(path)?;
        let map = machine.map(&[file.len()], options)?;
        Self::new(vec![file], map, RamOptions::new())
    }

    /// Maps an inherited descriptor as `map` says; `name` is what errors call it.
    ///
    /// # Errors
    /// As [`RamFile::from_fd`] and [`new`](Self::new).
    pub fn from_fd(fd: OwnedFd, name: impl Into<PathBuf>, map: SegmentMap) -> Result<Self, OpenError> {
        Self::new(vec![RamFile::from_fd(fd, name)?], map, RamOptions::new())
    }

    /// The segment map.
    #[must_use]
    pub const fn map(&self) -> &SegmentMap {
        &self.map
    }

    /// The files.
    #[must_use]
    pub fn files(&self) -> &[RamFile] {
        &self.files
    }

    /// Asks every file whether it still has the length it was opened with.
    ///
    /// A file can shrink right after the answer; see [above](Self#when-a-file-shrinks).
    ///
    /// # Errors
    /// [`OpenError::Shrunk`] with both lengths.
    pub fn check(&self) -> Result<(), OpenError> {
        self.files.iter().try_for_each(RamFile::check)
    }

    /// Whether a guarded file was found to have shrunk: this RAM is of no more use then.
    #[must_use]
    pub fn is_lost(&self) -> bool {
        self.space.is_lost()
    }

    /// Reads the `T` at `gpa` by a volatile load, for single fields that need no ordering.
    ///
    /// `T` is read as the host lays it out: wrap numbers that the guest keeps little-endian in zerocopy's types, or
    /// convert. A volatile read of more than a word is not one access, and no read is ordered with others: a seqlock
    /// rests on [`load_words`](PhysRead::load_words) and [`fence_acquire`](PhysRead::fence_acquire). Reads here know
    /// nothing of a file that was lost: ask [`is_lost`](Self::is_lost) afterwards where that matters.
    ///
    /// ```no_run
    /// # use vgpu_perception::Gpa;
    /// # fn of(ram: &vgpu_perception_mapped::GuestRam) -> Result<(), vgpu_perception::PhysError> {
    /// let heartbeat: u64 = ram.volatile_read(Gpa::new(0x10_0100))?;
    /// # let _ = heartbeat; Ok(()) }
    /// ```
    ///
    /// # Errors
    /// [`PhysErrorKind::Gap`] where it does not lie in one segment, [`PhysErrorKind::Misaligned`] where `gpa` is not
    /// aligned for a `T`.
    pub fn volatile_read<T: FromBytes + Copy>(&self, gpa: Gpa) -> Result<T, PhysError> {
        self.space.volatile_read(gpa.get())
    }

    /// A view of `window`, safe to read; `None` where it does not lie in this RAM's mappings.
    ///
    /// For visitors of frames: what they are shown in place becomes words, a copy, or the source of a `writev`.
    ///
    /// ```no_run
    /// use std::fs::File;
    /// use vgpu_perception::region::{Reader, Sample};
    /// use vgpu_perception::{Gpa, PhysError, PhysErrorKind};
    /// use vgpu_perception_mapped::{GuestRam, ViewList};
    ///
    /// /// Writes the latest frame to `file` out of the guest's own memory. Nothing is copied in this process.
    /// fn spill(reader: &mut Reader<&GuestRam>, file: &File) -> Result<bool, Box<dyn std::error::Error>> {
    ///     let sample = reader.visit_frame(|stretch| {
    ///         let mut views = ViewList::new();
    ///         for (run, window) in stretch.windows() {
    ///             let gone = PhysError::new(run.gpa, PhysErrorKind::Gap);
    ///             views.push(window.and_then(|window| stretch.memory().view(window)).ok_or(gone)?);
    ///         }
    ///         let failed = |_| PhysError::new(Gpa::new(0), PhysErrorKind::Backend(5));
    ///         views.write_to(file).map(drop).map_err(failed)
    ///     })?;
    ///     Ok(matches!(sample, Sample::Fresh(_))) // what was written counts only then
    /// }
    /// # let _ = spill;
    /// ```
    #[must_use]
    pub fn view<'m>(&'m self, window: Window<'m>) -> Option<MappedView<'m>> {
        self.space.view(window)
    }

    /// Bytes that are kept of what copies of a guest were measured to take, beside this value: they are allocated when
    /// it is made.
    pub const MEASURED_BYTES: usize = crate::plan::Chooser::BYTES;

    /// What copies of this guest were measured to take so far: to be saved, and given to [`calibrate`](Self::calibrate)
    /// when the program runs again.
    #[must_use]
    pub fn calibration(&self) -> Calibration {
        Calibration::of(self.space.chooser())
    }

    /// Has copies begin with methods that were measured before, instead of trying all in the first frames. Does nothing
    /// where that was on [another processor](Calibration::is_for_this_processor).
    ///
    /// ```
    /// # fn of(ram: &vgpu_perception_mapped::GuestRam, path: &str) -> Result<(), Box<dyn std::error::Error>> {
    /// if let Ok(saved) = std::fs::read_to_string(path) {
    ///     ram.calibrate(&saved.parse()?);
    /// }
    /// // ... and when the program ends:
    /// std::fs::write(path, ram.calibration().to_string())?;
    /// # Ok(()) }
    /// ```
    pub fn calibrate(&self, calibration: &Calibration) {
        calibration.restore(self.space.chooser());
    }

    pub(crate) const fn space(&self) -> &Space {
        &self.space
    }

    fn refuse_empty(&self) -> Result<(), OpenError> {
        for segment in self.map.segments() {
            let Some(file) = self.files.get(segment.file) else { continue };
            // Anything but a clear "no data" counts as data: this check has to be sure before it refuses.
            if !matches!(file.next_data(segment.offset, segment.offset + segment.len), Ok(None)) {
                return Ok(());
            }
        }
        let (path, len) = self.files.first().map_or((PathBuf::new(), 0), |file| (file.path().into(), file.len()));
        Err(OpenError::Empty { path, len })
    }
}

fn map_file(file: &RamFile, options: RamOptions, others: &[Mapping]) -> Result<Mapping, OpenError> {
    let len = usize::try_from(file.len()).unwrap_or(usize::MAX);
    let mut mapping = Mapping::new(file.as_fd(), len).map_err(|source| file.failed("mapping it", source))?;
    if let Some(guard) = options.guard {
        mapping.guard(guard, others).map_err(|_| OpenError::GuardFull { max: MAX_GUARDED })?;
    }
    Ok(mapping)
}

const fn placed(segment: &Segment) -> Placed {
    Placed { gpa: segment.gpa, len: segment.len, map: segment.file, offset: segment.offset }
}

impl GuestRam {
    /// What a page is, where `has_data` says what its file has at a place.
    fn kind_by(&self, page: Gpa, has_data: impl Fn(&RamFile, u64) -> bool) -> PageKind {
        let gpa = page.get();
        // Segments are whole pages.
        let segment = self.map.segments().iter().find(|segment| gpa.wrapping_sub(segment.gpa.get()) < segment.len);
        let Some(segment) = segment else { return PageKind::Gap };
        let skip = gpa.wrapping_sub(segment.gpa.get());
        // In a dump a guest page can lie in two pages of the file.
        let (first, last) = (segment.offset + skip, segment.offset + skip + (PAGE_BYTES - 1));
        let straddles = !segment.offset.is_multiple_of(PAGE_BYTES);
        match self.files.get(segment.file) {
            Some(file) if has_data(file, first) || (straddles && has_data(file, last)) => PageKind::Data,
            Some(_) => PageKind::Hole,
            None => PageKind::Gap,
        }
    }
}

impl PhysRead for GuestRam {
    #[inline]
    fn read(&self, gpa: Gpa, dst: &mut [u8]) -> Result<(), PhysError> {
        self.space.read(gpa.get(), dst)
    }

    #[inline(always)]
    fn load_u32(&self, gpa: Gpa) -> Result<u32, PhysError> {
        self.space.load_u32(gpa.get())
    }

    #[inline(always)]
    fn load_u64(&self, gpa: Gpa) -> Result<u64, PhysError> {
        self.space.load_u64(gpa.get())
    }

    #[inline]
    fn load_words(&self, gpa: Gpa, dst: &mut [u64]) -> Result<(), PhysError> {
        self.space.load_words(gpa.get(), dst)
    }

    #[inline(always)]
    fn load_at_once(&self, gpa: Gpa) -> Option<u64> {
        self.space.load_at_once(gpa.get())
    }

    #[inline]
    fn load_columns(&self, at: [Gpa; 2], stride: u64, dst: &mut [[u64; 2]]) -> Result<(), PhysError> {
        self.space.load_columns(at.map(Gpa::get), stride, dst)
    }

    fn read_runs(&self, runs: &[PhysRun], dst: &mut [u8], hint: CopyHint) -> Result<(), PhysError> {
        self.space.read_runs(runs, dst, hint)
    }

    fn copied(&self, dst: &[u8], hint: CopyHint) {
        if hint.policy == CopyPolicy::Auto {
            self.space.chooser().frame_done(dst, hint);
        }
    }

    fn ram_end(&self) -> Gpa {
        let end = self.map.segments().last().map_or(0, |last| last.gpa.get().saturating_add(last.len));
        Gpa::new(end)
    }

    fn next_extent(&self, from: Gpa) -> Result<Option<Extent>, PhysError> {
        let from = from.get();
        for segment in self.map.segments() {
            let gpa = segment.gpa.get();
            let skip = from.saturating_sub(gpa);
            if skip >= segment.len {
                continue;
            }
            let Some(file) = self.files.get(segment.file) else { continue };
            let (first, end) = (segment.offset + skip, segment.offset + segment.len);
            match file.next_data(first, end) {
                Ok(None) => {}
                Ok(Some((start, len))) => {
                    // Whole guest pages: in a dump one can lie in two pages of the file, of which one has data.
                    let (start, end) = (start - segment.offset, start - segment.offset + len);
                    let start = (start & !(PAGE_BYTES - 1)).max(skip);
                    let end = end.next_multiple_of(PAGE_BYTES).min(segment.len);
                    return Ok(Some(Extent { start: Gpa::new(gpa + start), len: end - start }));
                }
                Err(error) => {
                    let kind = match error {
                        DataError::Shrunk => PhysErrorKind::Lost,
                        DataError::Errno(code) => PhysErrorKind::Backend(code),
                    };
                    return Err(PhysError::new(Gpa::new(gpa + skip), kind));
                }
            }
        }
        Ok(None)
    }

    /// One question to the file; where its data ends, which `next_extent` says, takes the kernel a look at every page.
    fn page_kind(&self, page: Gpa) -> PageKind {
        self.kind_by(page, RamFile::has_data_at)
    }

    fn fills_hole(&self, page: Gpa) -> bool {
        self.kind_by(page, RamFile::had_data_at) == PageKind::Hole
    }

    #[inline]
    fn window(&self, gpa: Gpa, len: usize) -> Option<Window<'_>> {
        self.space.window(gpa.get(), len)
    }

    #[inline]
    fn prefetch(&self, gpa: Gpa) {
        self.space.prefetch(gpa.get());
    }
}
