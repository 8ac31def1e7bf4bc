//! The bytes of one process object: the fields that a reader wants, and everything else that it could mistake for them.

use vgpu_perception::Gva;

use crate::rng::Rng;

use super::by_type;
use super::layout::Layout;
use super::lists::Holds;

/// `STATUS_PENDING`: the exit status of a process that runs.
pub const STILL_ACTIVE: u32 = 0x103;

/// What the fields hold.
#[derive(Clone, Debug, Default)]
pub(super) struct Fields {
    /// Where the object lies.
    pub at: u64,
    /// The process ended.
    pub exited: bool,
    /// `DirectoryTableBase`.
    pub table: u64,
    /// `UserDirectoryTableBase`, and the byte after it.
    pub user_table: (u64, u8),
    /// `UniqueProcessId`.
    pub pid: u32,
    /// `InheritedFromUniqueProcessId`.
    pub ppid: u32,
    /// `ActiveProcessLinks`: next and previous.
    pub links: (u64, u64),
    /// The links of other lists of all processes, each with its offset.
    pub other_links: Vec<(u32, (u64, u64))>,
    /// `ImageFileName`.
    pub name: &'static str,
    /// `Peb`.
    pub peb: u64,
    /// `SectionBaseAddress`.
    pub section_base: u64,
    /// `Wow64Process`.
    pub wow64: u64,
    /// `CreateTime`.
    pub create_time: u64,
    /// `VadRoot`, a pointer or a table.
    pub vad_root: Vec<u8>,
    /// `VadHint`.
    pub vad_hint: u64,
    /// `ObjectTable`.
    pub object_table: u64,
    /// Nodes of the tree of descriptors.
    pub nodes: u64,
    /// The name that is kept for audits.
    pub audit: u64,
    /// First and last thread of the kernel's list.
    pub kernel_threads: Option<(u64, u64)>,
    /// First and last thread of the executive's list.
    pub threads: Option<(u64, u64)>,
}

/// What the rest of the object points to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings {
    /// Page table isolation is on.
    pub kpti: bool,
    /// Decides which slot is what; the same for all processes.
    pub seed: u64,
    /// Some nonpaged pool.
    pub nonpaged: Gva,
    /// Some paged pool.
    pub paged: Gva,
}

/// Eight-byte slots that no field of `layout` touches.
fn free_slots(layout: &Layout, kpti: bool) -> Vec<u32> {
    let mut fields = layout.fields();
    if let Some(at) = layout.user_root_at(true)
        && layout.user_root_at(kpti).is_none()
    {
        // The field of patched revisions is ordinary space in this one.
        fields.retain(|field| field.0 != at);
    }
    let free = |at: &u32| fields.iter().all(|(from, bytes)| at + 8 <= *from || from + bytes <= *at);
    (0..layout.size).step_by(8).filter(free).collect()
}

/// Where the links of other lists lie: where the field list says so, else two free slots after the root of the
/// descriptors, where there are any.
#[must_use]
pub(super) fn other_links_at(layout: &Layout) -> Vec<u32> {
    if let Some(listed) = layout.listed {
        return listed.iter().filter(|field| field.holds == Holds::Ring).map(|field| field.at).collect();
    }
    let free = free_slots(layout, true);
    let pair = free.windows(2).find(|pair| pair[0] > layout.vad_root + 0x18 && pair[1] == pair[0] + 8);
    pair.map(|pair| pair[0]).into_iter().collect()
}

/// The object.
#[must_use]
pub(super) fn bytes(layout: &Layout, around: &Surroundings, fields: &Fields) -> Vec<u8> {
    let size = usize::try_from(layout.size).expect("small");
    let mut out = vec![0; size.next_multiple_of(16)];
    match layout.listed {
        Some(listed) => by_type::fill(&mut out, listed, around, fields),
        None => fill(&mut out, layout, around, fields),
    }
    let mut put = |at: u32, bytes: &[u8]| {
        let at = usize::try_from(at).expect("small");
        out[at..at + bytes.len()].copy_from_slice(bytes);
    };
    let mut pair = |at: u32, (first, second): (u64, u64)| {
        put(at, &first.to_le_bytes());
        put(at + 8, &second.to_le_bytes());
    };
    let list = |at: u32| (fields.at + u64::from(at), fields.at + u64::from(at));
    pair(8, list(8));
    pair(0x18, list(0x18));
    pair(layout.kernel_thread_list, fields.kernel_threads.unwrap_or(list(layout.kernel_thread_list)));
    pair(layout.thread_list, fields.threads.unwrap_or(list(layout.thread_list)));
    pair(layout.links, fields.links);
    for (at, links) in &fields.other_links {
        pair(*at, *links);
    }
    if let Some(at) = layout.user_root_at(around.kpti) {
        pair(at, (fields.user_table.0, fields.user_table.1.into()));
    }
    put(0, &[3, 0, layout.header_size, 0]);
    put(4, &u32::from(fields.exited).to_le_bytes());
    put(layout.directory_table_base, &fields.table.to_le_bytes());
    put(layout.pid, &u64::from(fields.pid).to_le_bytes());
    put(layout.ppid, &u64::from(fields.ppid).to_le_bytes());
    put(layout.create_time, &fields.create_time.to_le_bytes());
    put(layout.peb, &fields.peb.to_le_bytes());
    put(layout.section_base, &fields.section_base.to_le_bytes());
    put(layout.wow64, &fields.wow64.to_le_bytes());
    let mut name = [0; 16];
    name[..fields.name.len()].copy_from_slice(fields.name.as_bytes());
    // The byte after the name is the priority class.
    name[15] = 2;
    put(layout.image_name, &name);
    put(layout.exit_status, &(if fields.exited { 0 } else { STILL_ACTIVE }).to_le_bytes());
    let exit_time = if fields.exited { fields.create_time + 90 * 10_000_000 } else { 0 };
    put(layout.exit_time, &exit_time.to_le_bytes());
    put(layout.vad_root, &fields.vad_root);
    if let Some(at) = layout.vad_hint {
        put(at, &fields.vad_hint.to_le_bytes());
    }
    put(layout.object_table, &fields.object_table.to_le_bytes());
    put(layout.active_threads, &u32::from(!fields.exited).wrapping_mul(2).to_le_bytes());
    out
}

/// Fills the free slots: what a slot is like is the same in every process, what it holds is not.
fn fill(out: &mut [u8], layout: &Layout, around: &Surroundings, fields: &Fields) {
    let mut values = Rng::new(around.seed ^ fields.at);
    let free = free_slots(layout, around.kpti);
    let mut list_at = None;
    for slot in free {
        let kind = Rng::new(around.seed.wrapping_add(u64::from(slot) * 131)).below(12);
        let here = fields.at + u64::from(slot);
        let value = match kind {
            _ if list_at == Some(here) => here - 8,
            0..=2 => 0,
            3 => values.below(0x100) | values.below(0x100) << 32,
            4 => around.nonpaged.get() + values.below(64) * 0x10,
            5 => around.paged.get() + values.below(64) * 0x10,
            6 => values.below(1_000_000_000) | 1 << 20,
            // The size of the address space: whole pages, as an address in the user half would be.
            7 => values.below(1 << 28) << 12,
            // A reference with a count in its low bits.
            8 => (around.paged.get() + values.below(64) * 0x10) | 0xf,
            9 => values.below(1 << 32) | 1 << 31,
            // An empty list, where the next slot is free too.
            10 => here,
            _ => values.below(0x10) * 4 + 0x1000,
        };
        list_at = (kind == 10 && list_at != Some(here)).then_some(here + 8);
        let at = usize::try_from(slot).expect("small");
        out[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }
}
