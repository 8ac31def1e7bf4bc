//! A guest whose memory can be read: where surveys begin.

use core::fmt;
use core::ops::ControlFlow;
use std::sync::{Mutex, MutexGuard, PoisonError};

use vgpu_perception::find::{FindProgress, Finder, Workspace, WorkspaceSize};
use vgpu_perception::process::guest::{GuestKernel, GuestPaging};
use vgpu_perception::process::nt::{KernelPulse, NtError};
use vgpu_perception::process::roots::RootCandidate;
use vgpu_perception::{Budget, Cr3, Gpa, PagingMode, PhysRead, Process, Step};

use crate::attach::{self, AttachError, Attachment, GuestSpec};
use crate::error::SurveyError;
use crate::kept::Kept;
use crate::memory::Shared;
use crate::ram::Ram;
use crate::survey::{Limits, Survey};

/// Loads between two reports of progress. A report is cheap, and a person sees some a second.
pub(crate) const PIECE: u64 = 1 << 18;

/// A guest whose memory can be read.
///
/// ```no_run
/// use vgpu_perception_host::{FrameBuffer, Guest, Sample};
///
/// fn main() -> Result<(), Box<dyn core::error::Error>> {
///     let guest = Guest::attach("win11")?;
///     let mut survey = guest.survey()?;
///     std::thread::sleep(survey.wait());
///     let mut picture = FrameBuffer::new(3840 * 2160 * 4);
///     for mut live in survey.confirm()? {
///         if let Sample::Fresh(frame) = live.frame(&mut picture)? {
///             println!("frame {} of {} bytes", frame.desc.frame_id, frame.bytes);
///         }
///     }
///     Ok(())
/// }
/// ```
pub struct Guest<M = Ram> {
    state: Mutex<State<M>>,
    limits: Limits,
    live: bool,
    notes: Vec<String>,
}

/// What may change while the guest is attached.
struct State<M> {
    root: Root,
    mode: Option<PagingMode>,
    memory: Shared<M>,
    /// Where its RAM ends.
    end: Gpa,
    /// The kernel of the last search that led to a living producer.
    kernel: Option<Kept>,
    /// The next search takes no Windows kernel: the last one stood still, and led to nobody who lives.
    not_windows: bool,
    refresh: Option<Refresh<M>>,
}

/// Looks whether the guest's memory is still where it was; says where it is now, and what is known of its tables.
pub type Refresh<M> = Box<dyn FnMut() -> Result<Refreshed<M>, RefreshError> + Send>;

/// What a second look at a guest gave.
#[derive(Debug)]
pub struct Refreshed<M> {
    /// Its memory: the same as before, or new.
    pub memory: Shared<M>,
    /// Where its RAM ends.
    pub end: Gpa,
    /// A root that some processor has loaded now, where one is known. It replaces an earlier hint, and no root that was
    /// given.
    pub hint: Option<Cr3>,
    /// How deep its tables are, where that is known.
    pub mode: Option<PagingMode>,
}

/// Why a guest cannot be read any more.
pub type RefreshError = Box<dyn core::error::Error + Send + Sync>;

/// What is known of the guest's page tables.
#[derive(Clone, Copy, Debug)]
enum Root {
    Unknown,
    Known(Cr3),
    Hint(Cr3),
}

impl<M> fmt::Debug for Guest<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = self.state();
        f.debug_struct("Guest").field("root", &state.root).field("mode", &state.mode).finish_non_exhaustive()
    }
}

/// The kernel of a guest, and how it was found.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct FoundKernel<M> {
    /// The kernel.
    pub kernel: GuestKernel,
    /// Why it is not Windows, where it is not.
    pub not_windows: Option<NtError>,
    /// The memory that it was found in.
    pub memory: Shared<M>,
}

impl<M: PhysRead> Guest<M> {
    /// A guest in memory of any kind, whose RAM ends at `end` (the address behind its last byte).
    #[must_use]
    pub fn over(memory: M, end: Gpa) -> Self {
        Self::of(Shared::new(memory), end)
    }

    fn of(memory: Shared<M>, end: Gpa) -> Self {
        let (root, mode) = (Root::Unknown, None);
        let state = State { memory, end, kernel: None, not_windows: false, refresh: None, root, mode };
        Self { state: Mutex::new(state), limits: Limits::default(), live: true, notes: Vec::new() }
    }

    /// Says that `root` is a page-table root (CR3) of the guest.
    #[must_use]
    pub fn with_root(self, root: Cr3) -> Self {
        self.state().root = Root::Known(root);
        self
    }

    /// Says that some processor of the guest had `root` loaded. It may be one of user mode alone.
    #[must_use]
    pub fn with_hint(self, root: Cr3) -> Self {
        self.state().root = Root::Hint(root);
        self
    }

    /// Says how deep the guest's page tables are.
    #[must_use]
    pub fn with_mode(self, mode: Option<PagingMode>) -> Self {
        self.state().mode = mode;
        self
    }

    /// How many candidates a survey holds.
    #[must_use]
    pub const fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Says that the memory stands still, as that of a core file does: no heartbeat can advance in it.
    #[must_use]
    pub const fn frozen(mut self) -> Self {
        self.live = false;
        self
    }

    /// Asks `refresh` before each survey whether the memory is still the guest's.
    #[must_use]
    pub fn with_refresh(self, refresh: Refresh<M>) -> Self {
        self.state().refresh = Some(refresh);
        self
    }

    /// Whether the memory can change: false for a core file.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        self.live
    }

    /// The memory of the last survey, or the one that the guest was attached with.
    #[must_use]
    pub fn memory(&self) -> Shared<M> {
        self.state().memory.clone()
    }

    /// Finds the candidates in all processes of the guest, each with a first reading of its heartbeat.
    ///
    /// A kernel that led to a living producer before is used again if it is still there; else the whole of RAM is
    /// searched.
    ///
    /// # Errors
    /// [`SurveyError`].
    pub fn survey(&self) -> Result<Survey<M>, SurveyError> {
        self.survey_with(|_| ControlFlow::Continue(()))
    }

    /// As [`survey`](Self::survey), and calls `each` with the progress every few milliseconds; it may break off.
    ///
    /// # Errors
    /// [`SurveyError`]; [`SurveyError::Cancelled`] where `each` broke off.
    pub fn survey_with(&self, each: impl FnMut(FindProgress) -> ControlFlow<()>) -> Result<Survey<M>, SurveyError> {
        let (memory, end, begin) = self.current()?;
        Survey::take(memory, end, self.limits, self.live, begin, each)
    }

    /// Finds the guest's kernel, for a caller that wants its processes and no regions.
    ///
    /// # Errors
    /// [`SurveyError`].
    pub fn kernel(&self) -> Result<FoundKernel<M>, SurveyError> {
        self.kernel_with(|_| ControlFlow::Continue(()))
    }

    /// As [`kernel`](Self::kernel), with progress as [`survey_with`](Self::survey_with) gives it.
    ///
    /// # Errors
    /// [`SurveyError`]; [`SurveyError::Cancelled`] where `each` broke off.
    pub fn kernel_with(
        &self,
        mut each: impl FnMut(FindProgress) -> ControlFlow<()>,
    ) -> Result<FoundKernel<M>, SurveyError> {
        let (memory, _, begin) = self.current()?;
        let mut workspace = workspace(Gpa::new(0));
        let mut finder = begin.finder(&mut workspace);
        loop {
            if finder.step_kernel(&memory, &mut Budget::new(PIECE))?
                && let Some(kernel) = finder.found_kernel()
            {
                return Ok(FoundKernel { kernel: *kernel, not_windows: finder.not_windows(), memory });
            }
            if each(finder.progress()).is_break() {
                return Err(SurveyError::Cancelled);
            }
        }
    }

    /// The kernel that led to a living producer: the next search begins with it.
    pub(crate) fn remember(&self, kernel: GuestKernel) {
        self.state().kernel = Some(Kept::now(kernel));
    }

    /// Whether the kernel that is remembered still runs, as far as one can tell; true where none is. To be asked now
    /// and then: only what moved between two looks says that a kernel runs.
    pub(crate) fn kernel_runs(&self) -> bool {
        let state = &mut *self.state();
        state.kernel.as_mut().is_none_or(|kept| kept.runs(&state.memory))
    }

    /// Searches all of RAM the next time: what was remembered led to nothing that lives.
    pub(crate) fn forget(&self) {
        self.state().kernel = None;
    }

    /// Looks at a kernel that led to nobody who lives, a while after it was found: a Windows that stands still may be
    /// what the boot before left behind, while another system runs. The next search, and that one alone, then takes
    /// none.
    pub(crate) fn doubt(&self, kernel: &GuestKernel) {
        let state = &mut *self.state();
        state.not_windows = matches!(kernel.revalidate(&state.memory), Ok(KernelPulse::Still));
    }

    /// The memory as it is now, and where a search begins.
    fn current(&self) -> Result<(Shared<M>, Gpa, Beginning), SurveyError> {
        let mut state = self.state();
        if let Some(refresh) = &mut state.refresh {
            let Refreshed { memory, end, hint, mode } = refresh().map_err(SurveyError::Detached)?;
            if !memory.is(&state.memory) {
                state.kernel = None;
            }
            state.memory = memory;
            state.end = end;
            state.mode = mode.or(state.mode);
            if let (Root::Unknown | Root::Hint(_), Some(hint)) = (state.root, hint) {
                state.root = Root::Hint(hint);
            }
        }
        let State { kernel, memory, .. } = &mut *state;
        let _ = kernel.take_if(|kept| !kept.runs(memory));
        let kernel = kernel.as_ref().map(|kept| kept.kernel);
        let windows = !core::mem::take(&mut state.not_windows);
        let begin = Beginning { root: state.root, mode: state.mode, kernel, windows };
        Ok((state.memory.clone(), state.end, begin))
    }
}

impl<M> Guest<M> {
    /// What was assumed when the guest was attached, or done in another way than asked; for people.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    fn state(&self) -> MutexGuard<'_, State<M>> {
        // Every change of the state is one assignment: a thread that panicked left nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Guest<Ram> {
    /// Attaches to a guest by its name: `name:NAME`, `pid:N`, `qmp:PATH`, `qmp:HOST:PORT`, `ch:SOCKET`, `ram:FILE`,
    /// `core:FILE`, or a bare word that can be only one of these.
    ///
    /// # Errors
    /// [`AttachError`] with what is in the way and what to do about it.
    pub fn attach(name: &str) -> Result<Self, AttachError> {
        Self::attach_to(&name.parse()?)
    }

    /// Attaches to the guest that `spec` names.
    ///
    /// # Errors
    /// As [`attach`](Self::attach).
    pub fn attach_to(spec: &GuestSpec) -> Result<Self, AttachError> {
        attach::attach(spec).map(Self::from)
    }
}

impl From<Attachment> for Guest<Ram> {
    fn from(mut attachment: Attachment) -> Self {
        let memory = attachment.ram.clone();
        let end = memory.end();
        let mut guest = Self::of(memory, end).with_mode(attachment.mode);
        guest = match (attachment.root, attachment.root_is_guess) {
            (Some(root), false) => guest.with_root(root),
            (Some(root), true) => guest.with_hint(root),
            (None, _) => guest,
        };
        guest.live = attachment.live;
        guest.notes = core::mem::take(&mut attachment.notes);
        guest.with_refresh(Box::new(move || {
            attachment.refresh()?;
            Ok(Refreshed {
                end: attachment.ram.end(),
                memory: attachment.ram.clone(),
                hint: attachment.root,
                mode: attachment.mode,
            })
        }))
    }
}

/// Where a search begins.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Beginning {
    root: Root,
    mode: Option<PagingMode>,
    kernel: Option<GuestKernel>,
    windows: bool,
}

impl Beginning {
    /// The same with nothing found before, and for a system that is no Windows; `None` where the caller has said which
    /// kernel it is.
    pub(crate) fn without_windows(self) -> Option<Self> {
        match self.root {
            Root::Known(_) => None,
            Root::Unknown | Root::Hint(_) => Some(Self { kernel: None, windows: false, ..self }),
        }
    }

    pub(crate) fn finder(self, workspace: &mut Buffers) -> Finder<'_> {
        let finder = Finder::new(workspace).mode(self.mode);
        let finder = if self.windows { finder } else { finder.without_windows() };
        match (self.kernel, self.root) {
            (Some(kernel), _) => finder.kernel(kernel),
            (None, Root::Known(root)) => finder.root(root),
            (None, Root::Hint(root)) => finder.hint(root),
            (None, Root::Unknown) => finder,
        }
    }
}

/// The scratch memory of a search, on the heap.
pub(crate) type Buffers = Workspace<Vec<RootCandidate>, Vec<Process<GuestPaging>>, Vec<u64>>;

/// Scratch memory for a guest whose RAM ends at `end`.
pub(crate) fn workspace(end: Gpa) -> Buffers {
    let size = WorkspaceSize::for_ram(end);
    Workspace::new(
        vec![RootCandidate::default(); size.roots],
        vec![Process::default(); size.processes],
        vec![0; size.page_bitmap],
    )
}

/// Calls `each` with what `finder` finds until nothing is left.
pub(crate) fn drive<M: PhysRead>(
    finder: &mut Finder<'_>,
    memory: &M,
    mut each: impl FnMut(vgpu_perception::scan::Candidate<GuestPaging>),
    mut progress: impl FnMut(FindProgress) -> ControlFlow<()>,
) -> Result<(), SurveyError> {
    loop {
        let mut budget = Budget::new(PIECE);
        match finder.step(memory, &mut budget)? {
            Step::Found(candidate) => each(candidate),
            Step::Pending => {}
            Step::Done => return Ok(()),
        }
        if progress(finder.progress()).is_break() {
            return Err(SurveyError::Cancelled);
        }
    }
}
