//! One guest, put together: kernel half, processes, lists, low memory.

use vgpu_perception::paging::Level;
use vgpu_perception::{Gpa, Gva, PAGE_BYTES, PageSize, PagingMode};

use crate::builder::{GuestBuilder, Space};
use crate::ram::Ram;
use crate::region::RegionImage;
use crate::rng::Rng;

use super::eprocess::{self, Fields, Surroundings};
use super::image::{self, Mapping};
use super::kernel::{self, Kernel};
use super::layout::{Layout, UserRoot};
use super::process::{self, Kind, Library, PrivateState, Spec};
use super::pte::PteCodec;
use super::shared::{SharedOptions, SharedRegion};
use super::{
    ListShape, Options, REGION_BASE, RootPlace, Shape, StartBlock, Truth, TruthProcess, WindowsGuest, forged_base,
};
use super::{decoys, vad};

pub(super) struct Builder<'l> {
    layout: &'l Layout,
    shape: Shape,
    options: Options,
    codec: PteCodec,
    kpti: bool,
    rng: Rng,
    guest: GuestBuilder,
    kernel: Kernel,
    nt_base: Gva,
    /// Another boot left its memory behind, low memory with it.
    again: bool,
}

/// What was made for one process, before its object is written.
struct Made {
    fields: Fields,
    space: Space,
    trimmed: Vec<(Gva, PrivateState)>,
}

impl<'l> Builder<'l> {
    pub(super) fn new(layout: &'l Layout, shape: Shape, options: Options) -> Self {
        let mode = if shape == Shape::FiveLevel { PagingMode::FiveLevel } else { PagingMode::FourLevel };
        let mut guest = GuestBuilder::new(Ram::split(options.ram, 3 << 30), options.seed).with_mode(mode);
        decoys::reserve(&mut guest);
        Self::over(guest, layout, shape, options, false)
    }

    /// In memory that another boot left behind.
    pub(super) fn again(before: &GuestBuilder, layout: &'l Layout, shape: Shape, options: Options) -> Self {
        Self::over(before.clone(), layout, shape, options, true)
    }

    fn over(mut guest: GuestBuilder, layout: &'l Layout, shape: Shape, options: Options, again: bool) -> Self {
        let mut rng = Rng::new(options.seed ^ 0x57_494e);
        let root = Gpa::new(match options.root {
            RootPlace::Low => 0x1a_d000,
            RootPlace::Middle => 0x40a_8000,
            RootPlace::High => 0x1_0321_7000,
        });
        let mut kernel = Kernel::build(&mut guest, layout, root, &mut rng);
        let nt_base = Gva::new(match (shape, layout.build < 9200) {
            (Shape::SmallPages | Shape::MiddleOfPage, _) => 0xffff_f802_87e1_8000,
            (_, true) => 0xffff_f800_02a0_0000,
            (_, false) => 0xffff_f804_7ba0_0000,
        });
        let mapping = Mapping { large: shape != Shape::SmallPages, holes: options.holes };
        let names = ("ntoskrnl.exe", "POOLCODE");
        image::place(&mut guest, kernel.space, nt_base, names, mapping, &mut rng);
        // Images that are no kernel, next to it and elsewhere; one has a section of the name that marks kernels.
        let small = Mapping { large: false, holes: false };
        let near = nt_base.wrapping_add(0x180_0000).align_down(PageSize::Size2M);
        image::place(&mut guest, kernel.space, near, ("HAL.dll", "PAGECODE"), small, &mut rng);
        let drivers = kernel.drivers;
        image::place(&mut guest, kernel.space, drivers, ("CI.dll", "POOLCODE"), small, &mut rng);
        kernel.nonpaged.take(&mut guest, PAGE_BYTES, 16);
        let codec = PteCodec { format: layout.pte, l1tf: options.l1tf };
        let kpti = options.kpti && layout.user_root != UserRoot::Absent;
        Self { layout, shape, options, codec, kpti, rng, guest, kernel, nt_base, again }
    }

    fn nt(&self, offset: u64) -> Gva {
        self.nt_base.wrapping_add(offset)
    }

    pub(super) fn build(mut self) -> WindowsGuest {
        let layout = self.layout;
        let library = Library::build(&mut self.guest, &mut self.kernel, layout, self.codec);
        let cast = process::cast(layout);
        let (mut shared, mut forged) = (None, None);
        let mut made = Vec::new();
        for spec in &cast {
            let region = match spec.kind {
                Kind::Producer => &mut shared,
                Kind::Forger => &mut forged,
                _ => &mut None,
            };
            made.push(self.process(spec, &library, region));
        }
        let shared = shared.expect("the cast has a producer");
        let forged = forged.expect("the cast has a forger");
        for (spec, made) in cast.iter().zip(&made) {
            if spec.kind == Kind::Viewer {
                shared.view(&mut self.guest, made.space, Gva::new(0x2a5_0123_0000));
            }
        }
        self.link(&mut made);
        let around = Surroundings {
            kpti: self.kpti,
            seed: self.options.seed,
            nonpaged: self.kernel.nonpaged.take(&mut self.guest, 0x400, 0x10),
            paged: self.kernel.paged.take(&mut self.guest, 0x400, 0x10),
        };
        self.fill_pool(&around);
        for made in &made {
            let object = eprocess::bytes(layout, &around, &made.fields);
            self.guest.write(self.kernel.space, Gva::new(made.fields.at), &object);
        }
        self.variables(&made);
        self.low_memory();
        if self.options.trim_pool {
            let page = shared.section.first_prototype().align_down(PageSize::Size4K);
            let frame = self.guest.gpa(self.kernel.space, page);
            self.guest.set_entry(self.kernel.space, Level::Pt, page, self.codec.transition(frame));
        }
        let processes: Vec<_> = cast.iter().zip(made).map(|(spec, made)| truth(spec, made)).collect();
        let truth = Truth {
            layout: *layout,
            kcr3: self.kernel.space.cr3(),
            kpti: self.kpti,
            mode: self.guest.mode,
            start_block: (self.options.start_block != StartBlock::Missing).then_some(decoys::START_BLOCK),
            nt_base: self.nt_base,
            nt_bytes: image::IMAGE_BYTES,
            initial_system_process: self.nt(image::INITIAL_SYSTEM_PROCESS),
            active_process_head: self.nt(image::ACTIVE_PROCESS_HEAD),
            build_number: self.nt(image::BUILD_NUMBER),
            self_map: self.kernel.self_map,
            codec: self.codec,
            producer: cast.iter().position(|spec| spec.kind == Kind::Producer).expect("the cast has a producer"),
            processes,
            shared,
            forged,
        };
        WindowsGuest { ram: self.guest.ram.clone(), guest: self.guest, kernel: self.kernel, truth }
    }

    /// Something that a pointer into pool leads to.
    fn fill_pool(&mut self, around: &Surroundings) {
        for at in (0..0x400).step_by(8) {
            let value = if self.rng.one_in(2) { 0 } else { self.rng.next_u64() >> self.rng.below(64) };
            self.guest.write(self.kernel.space, around.nonpaged.wrapping_add(at), &value.to_le_bytes());
            self.guest.write(self.kernel.space, around.paged.wrapping_add(at), &(value ^ at).to_le_bytes());
        }
    }

    /// What the process was started from, as the kernel notes it: a counted string and its text. Gives its address.
    fn audit(&mut self, name: &str) -> u64 {
        let path = format!("\\Device\\HarddiskVolume3\\Windows\\System32\\{name}");
        let text: Vec<u8> = path.encode_utf16().flat_map(u16::to_le_bytes).collect();
        let at = self.kernel.paged.take(&mut self.guest, 0x10 + text.len() as u64 + 2, 0x10);
        let bytes = u64::try_from(text.len()).expect("a path is short");
        self.guest.write(self.kernel.space, at, &(bytes | (bytes + 2) << 16).to_le_bytes());
        self.guest.write(self.kernel.space, at.wrapping_add(8), &(at.get() + 0x10).to_le_bytes());
        self.guest.write(self.kernel.space, at.wrapping_add(0x10), &text);
        at.get()
    }

    /// The tables, user half, descriptors and threads of one process.
    fn process(&mut self, spec: &Spec, library: &Library, region: &mut Option<SharedRegion>) -> Made {
        let layout = self.layout;
        let chunk = self.kernel.nonpaged.take(&mut self.guest, u64::from(layout.size) + 0x80, 0x40);
        self.guest.write(self.kernel.space, chunk.wrapping_add(4), b"Proc");
        let at = chunk.get() + 0x80;
        let space = match spec.kind {
            Kind::System => self.kernel.space,
            _ => self.kernel.new_root(&mut self.guest, layout),
        };
        let mut fields = Fields {
            at,
            exited: spec.kind == Kind::Exited,
            pid: spec.pid,
            ppid: spec.ppid,
            name: spec.name,
            create_time: 0x01d7_3a2b_0000_0000 + u64::from(spec.pid) * 123_456_789,
            vad_root: vec![0; usize::try_from(layout.vad_root_bytes()).expect("small")],
            ..Fields::default()
        };
        let mut trimmed = Vec::new();
        match spec.kind {
            Kind::Exited => {}
            Kind::System | Kind::Minimal => {
                process::map_shared_data(&mut self.guest, &self.kernel, space);
                let mut ranges = [vad::Range { start: kernel::SHARED_DATA_USER, len: PAGE_BYTES, section: None }];
                self.descriptors(&mut fields, &mut ranges);
            }
            _ => trimmed = self.user_process(spec, &mut fields, (space, library), region),
        }
        self.tables(spec, &mut fields, space);
        fields.audit = self.audit(spec.name);
        if !fields.exited {
            fields.object_table = self.handle_table();
            fields.kernel_threads = Some(self.threads(at + u64::from(layout.kernel_thread_list)));
            fields.threads = Some(self.threads(at + u64::from(layout.thread_list)));
        }
        Made { fields, space, trimmed }
    }

    fn user_process(
        &mut self,
        spec: &Spec,
        fields: &mut Fields,
        (space, library): (Space, &Library),
        region: &mut Option<SharedRegion>,
    ) -> Vec<(Gva, PrivateState)> {
        let layout = self.layout;
        let user =
            process::user_half(&mut self.guest, &mut self.kernel, layout, self.codec, (space, library), &mut self.rng);
        fields.peb = user.peb.get();
        fields.section_base = user.section_base.get();
        if spec.kind == Kind::Wow64 {
            fields.wow64 = self.kernel.paged.take(&mut self.guest, 0x40, 0x10).get();
        }
        if matches!(spec.kind, Kind::Producer | Kind::Forger) {
            let mut base = REGION_BASE;
            let mut options = SharedOptions {
                image: self.options.image,
                ring: self.options.ring,
                trim: self.options.trim,
                per_subsection: self.options.per_subsection,
                trim_table: self.options.trim_table,
            };
            if spec.kind == Kind::Forger {
                base = forged_base(layout);
                options.image = RegionImage { heartbeat: 77, frames: 2, ..options.image };
            }
            let at = (space, base);
            let placed = SharedRegion::place(&mut self.guest, &mut self.kernel, layout, self.codec, at, &options);
            *region = Some(placed);
        }
        let mut ranges = user.ranges(&library.section);
        if let Some(shared) = region.as_ref() {
            let len = vgpu_perception::abi::REGION_BYTES;
            ranges.push(vad::Range { start: shared.region.base, len, section: Some(&shared.section) });
        }
        self.descriptors(fields, &mut ranges);
        user.trimmed
    }

    fn descriptors(&mut self, fields: &mut Fields, ranges: &mut [vad::Range<'_>]) {
        let root_at = Gva::new(fields.at + u64::from(self.layout.vad_root));
        fields.nodes = ranges.len() as u64;
        (fields.vad_root, fields.vad_hint) =
            vad::build(&mut self.guest, &mut self.kernel, self.layout, ranges, root_at);
    }

    /// The fields that name tables.
    fn tables(&mut self, spec: &Spec, fields: &mut Fields, space: Space) {
        let context = if self.kpti { 2 } else { 0 };
        fields.table = space.root.get() | context;
        if spec.kind == Kind::GarbageTable {
            fields.table = (self.rng.next_u64() & 0x0000_7fff_ffff_f000) | 1 << 46 | context;
        }
        if !self.kpti {
            return;
        }
        let code = self.nt(image::ENTRY_CODE);
        let of = match spec.kind {
            // With all privileges there is nothing to hide.
            Kind::Service | Kind::Exited => {
                fields.user_table = (1, 1);
                return;
            }
            Kind::System | Kind::Minimal => None,
            _ => Some(space),
        };
        let user = self.kernel.new_user_root(&mut self.guest, self.layout, of, code);
        fields.user_table = (user.root.get() | u64::from(of.is_some()), 0);
    }

    fn handle_table(&mut self) -> u64 {
        let chunk = self.kernel.paged.take(&mut self.guest, 0x80, 0x10);
        self.guest.write(self.kernel.space, chunk.wrapping_add(4), b"Obtb");
        chunk.get() + 0x10
    }

    /// Two threads on the list whose head is at `head`; gives the first and the last.
    fn threads(&mut self, head: u64) -> (u64, u64) {
        let take = |this: &mut Self| this.kernel.nonpaged.take(&mut this.guest, 0x100, 0x10).get() + 0x40;
        let (first, last) = (take(self), take(self));
        for (at, next, previous) in [(first, last, head), (last, head, first)] {
            self.guest.write(self.kernel.space, Gva::new(at), &next.to_le_bytes());
            self.guest.write(self.kernel.space, Gva::new(at + 8), &previous.to_le_bytes());
        }
        (first, last)
    }

    /// Links the processes in order, through the heads in the kernel's data.
    fn link(&mut self, made: &mut [Made]) {
        let others = eprocess::other_links_at(self.layout);
        let heads = (0..).map(|n: u64| self.nt(image::OTHER_PROCESS_HEAD + 0x10 * n));
        let mut lists = vec![(self.nt(image::ACTIVE_PROCESS_HEAD), self.layout.links)];
        lists.extend(heads.zip(others));
        for (n, (head, offset)) in lists.into_iter().enumerate() {
            let mut nodes = vec![head.get()];
            nodes.extend(made.iter().map(|made| made.fields.at + u64::from(offset)));
            let count = nodes.len();
            let around = |at: usize| (nodes[(at + 1) % count], nodes[(at + count - 1) % count]);
            for (at, made) in made.iter_mut().enumerate() {
                let links = around(at + 1);
                if n == 0 {
                    made.fields.links = links;
                } else {
                    made.fields.other_links.push((offset, links));
                }
            }
            let (first, last) = around(0);
            self.guest.write(self.kernel.space, head, &first.to_le_bytes());
            self.guest.write(self.kernel.space, head.wrapping_add(8), &last.to_le_bytes());
        }
        match self.options.list {
            ListShape::Honest => {}
            ListShape::Loop => {
                let back_to = made[5].fields.at + u64::from(self.layout.links);
                made[made.len() - 1].fields.links.0 = back_to;
            }
            ListShape::Broken => {
                made[7].fields.links.0 = self.kernel.nonpaged.take(&mut self.guest, 0x100, 0x10).get() + 0x20;
            }
        }
    }

    /// What the kernel's exports and data hold.
    fn variables(&mut self, made: &[Made]) {
        let system = made[0].fields.at;
        let modules = self.nt(image::LOADED_MODULES);
        let values = [
            (self.nt(image::INITIAL_SYSTEM_PROCESS), system),
            (self.nt(image::BUILD_NUMBER), 0xf000_0000 | u64::from(self.layout.build)),
            (modules, modules.get()),
            (modules.wrapping_add(8), modules.get()),
        ];
        for (at, value) in values {
            self.guest.write(self.kernel.space, at, &value.to_le_bytes());
        }
    }

    fn low_memory(&mut self) {
        if self.again {
            let (code, root) = (self.nt(image::SOME_CODE), self.kernel.space.root.get());
            if self.options.start_block != StartBlock::Missing {
                decoys::start_block(&self.guest, decoys::START_BLOCK, code, self.self_map_address(), root);
            }
            return;
        }
        decoys::dummy_tables(&mut self.guest, &self.kernel);
        let whole = self.options.start_block != StartBlock::StaleLoader;
        let loader = decoys::loader_table(&mut self.guest, &self.kernel, self.nt_base, whole);
        let code = self.nt(image::SOME_CODE);
        let self_map = self.self_map_address();
        let cr3 = match self.options.start_block {
            StartBlock::Missing => return,
            StartBlock::System | StartBlock::Only => self.kernel.space.root.get(),
            StartBlock::Loader | StartBlock::StaleLoader => loader.root.get(),
        };
        if self.options.start_block != StartBlock::Only {
            decoys::start_block(&self.guest, decoys::EMPTY_START_BLOCK, code, self_map, 0);
        }
        decoys::start_block(&self.guest, decoys::START_BLOCK, code, self_map, cr3);
    }

    /// Where the top table is in its own address space.
    fn self_map_address(&self) -> Gva {
        let mut at = 0_u64;
        let levels = if self.shape == Shape::FiveLevel { 5 } else { 4 };
        for level in 0..levels {
            at |= self.kernel.self_map << (12 + 9 * level);
        }
        Gva::new(at | 0_u64.wrapping_sub(1 << (11 + 9 * levels)))
    }
}

fn truth(spec: &Spec, made: Made) -> TruthProcess {
    let root: [u8; 8] = made.fields.vad_root[..8].try_into().expect("eight bytes");
    TruthProcess {
        name: spec.name,
        pid: spec.pid,
        ppid: spec.ppid,
        kind: spec.kind,
        eprocess: Gva::new(made.fields.at),
        space: made.space,
        table_field: made.fields.table,
        user_table_field: made.fields.user_table.0,
        peb: Gva::new(made.fields.peb),
        section_base: Gva::new(made.fields.section_base),
        vad_root: u64::from_le_bytes(root),
        create_time: made.fields.create_time,
        trimmed: made.trimmed,
    }
}
