//! Where a guest's RAM lies, by its process alone: from its command line and its mappings.
//!
//! The command line gives sizes and an order, mappings give addresses. If several mappings fit, every assignment is a
//! layout, and the page tables in RAM show which one is right (`proof.rs`).

use vgpu_perception::Gpa;
use vgpu_perception_mapped::{HighBase, Machine, MachineOptions, SegmentMap};
use vgpu_perception_process::Piece;

use super::cmdline::{Backend, BackendKind, Fields, QemuLine, size};
use super::error::{AttachError, AttachErrorKind};
use super::files::bytes;
use super::maps::{self, Area};
use super::vmm::{Vmm, option};

/// One way in which a guest's RAM may lie.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// Its pieces.
    pub pieces: Vec<Piece>,
    /// What was assumed.
    pub assumed: Vec<String>,
}

/// The most layouts that are tried: each may cost a search of all RAM. Four blocks of one size have as many orders.
pub const MAX_LAYOUTS: usize = 24;

/// What a machine has: sizes in order, with the mappings that can be each, best first.
struct Block {
    name: String,
    len: u64,
    fit: Vec<Area>,
}

/// The layouts of a guest whose process was started with `words` and has `areas` mapped, the likeliest first.
///
/// # Errors
/// [`AttachError`] where no mapping fits what the words say.
pub fn layouts(vmm: Vmm, words: &[String], areas: &[Area]) -> Result<Vec<Layout>, AttachError> {
    match vmm {
        Vmm::Qemu => qemu(&QemuLine::parse(words), areas),
        Vmm::CloudHypervisor => cloud_hypervisor(words, areas),
        Vmm::Firecracker => firecracker(areas),
        Vmm::Crosvm => crosvm(areas),
    }
}

fn unknown(what: impl Into<String>) -> AttachError {
    AttachError::new(AttachErrorKind::Layout, what)
}

fn qemu(line: &QemuLine, areas: &[Area]) -> Result<Vec<Layout>, AttachError> {
    let name = line.machine.as_deref().unwrap_or("pc");
    let machine: Machine = name.parse().map_err(|_| {
        unknown(format!("QEMU's machine {name:?} is not known here: give --machine with ram:FILE, or qmp:SOCKET"))
    })?;
    let ram = line.ram_backends();
    let mut blocks = ram.iter().map(|backend| block(backend, areas)).collect::<Result<Vec<_>, _>>()?;
    let cells = blocks.len();
    let total = blocks.iter().fold(0_u64, |sum, block| sum.saturating_add(block.len));
    for device in &line.devices {
        if let Some(backend) = line.backend(&device.memdev) {
            blocks.push(block(backend, areas)?);
        }
    }
    let mut layouts = Vec::new();
    for (options, why) in splits(machine, name, total, line.max_ram_below_4g) {
        let sizes: Vec<u64> = blocks.iter().take(cells).map(|block| block.len).collect();
        let map = machine.map(&sizes, options)?;
        let mut at = devices_base(&map);
        let mut devices = Vec::new();
        for (device, block) in line.devices.iter().zip(blocks.iter().skip(cells)) {
            let gpa = device.gpa.unwrap_or(at);
            at = gpa.saturating_add(block.len).checked_next_multiple_of(2 << 20).unwrap_or(u64::MAX);
            devices.push(gpa);
        }
        for (chosen, assumed) in assignments(&blocks) {
            let mut layout = Layout { pieces: Vec::new(), assumed };
            layout.assumed.extend(why.clone());
            for segment in map.segments() {
                let Some(area) = chosen.get(segment.file) else { continue };
                let host_addr = area.start.saturating_add(segment.offset);
                layout.pieces.push(Piece { gpa: segment.gpa, len: segment.len, host_addr });
            }
            for (gpa, area) in devices.iter().zip(chosen.iter().skip(cells)) {
                layout.pieces.push(Piece { gpa: Gpa::new(*gpa), len: area.len(), host_addr: area.start });
            }
            layouts.push(layout);
        }
    }
    layouts.truncate(MAX_LAYOUTS);
    Ok(layouts)
}

/// How the machine may split `total`: where the words do not decide, more than one way.
fn splits(machine: Machine, name: &str, total: u64, below: Option<u64>) -> Vec<(MachineOptions, Option<String>)> {
    // Machines before 2.0 split where the hole begins, not at a whole GiB.
    let old = name.starts_with("pc-i440fx-1.") || name.starts_with("pc-q35-1.") || name.starts_with("pc-0.");
    let max_ram_below_4g = below.or_else(|| (old && machine == Machine::Q35).then_some(0xb000_0000));
    let usual = MachineOptions { max_ram_below_4g, ..MachineOptions::default() };
    let mut ways = vec![(usual, None)];
    // AMD's processors have a hole below 1 TiB: RAM that would reach into it lies above, on machines of 7.1 and newer.
    if total.saturating_add(4 << 30) > 0xfd_0000_0000 {
        let high = MachineOptions { high_base: HighBase::Tib1, ..usual };
        ways.push((high, Some("assumed: RAM above the hole starts at 1 TiB (an AMD processor)".to_owned())));
    }
    ways
}

/// Where QEMU puts memory that is plugged in, if the machine may get any: from the first to after the last byte.
pub(super) fn device_window(line: &QemuLine) -> Option<core::ops::Range<u64>> {
    let name = line.machine.as_deref().unwrap_or("pc");
    let machine: Machine = name.parse().ok()?;
    let sizes: Vec<u64> = line.ram_backends().iter().map(|backend| backend.size).collect();
    let total = sizes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
    let (options, _) = splits(machine, name, total, line.max_ram_below_4g).into_iter().next()?;
    let start = devices_base(&machine.map(&sizes, options).ok()?);
    // Each device may be moved up to the next GiB.
    let room = line.max_ram?.checked_sub(total)?.saturating_add(line.slots.min(256) << 30);
    Some(start..start.saturating_add(room))
}

/// Where memory devices begin: the next GiB after all RAM, and not below 4 GiB.
fn devices_base(map: &SegmentMap) -> u64 {
    let end = map.segments().iter().map(|segment| segment.gpa.get().saturating_add(segment.len)).max().unwrap_or(0);
    end.max(4 << 30).checked_next_multiple_of(1 << 30).unwrap_or(u64::MAX)
}

/// The mappings that can be `backend`.
fn block(backend: &Backend, areas: &[Area]) -> Result<Block, AttachError> {
    let fits = |area: &Area| match backend.kind {
        BackendKind::Ram => area.name.is_empty() || area.name.starts_with("/dev/zero"),
        BackendKind::Memfd => area.name.starts_with("/memfd:") || area.name.starts_with("/anon_hugepage"),
        BackendKind::File => {
            area.offset == backend.offset && backend.path.as_deref().is_some_and(|path| is_at(maps::path(area), path))
        }
    };
    let mut fit: Vec<Area> = maps::of_len(areas, backend.size);
    fit.retain(|area| area.readable && area.writable && fits(area));
    // The kernel hands out addresses from the top: what was made first lies highest.
    fit.reverse();
    if fit.is_empty() {
        return Err(unknown(format!(
            "no mapping of the process fits its memory backend {} ({} as the command line says): give qmp:SOCKET of \
             its monitor",
            backend.id,
            bytes(backend.size)
        )));
    }
    Ok(Block { name: backend.id.clone(), len: backend.size, fit })
}

/// Whether `mapped`, as the kernel names it, may be the file at `path` or one in the directory `path`. A relative path
/// is one of the process's own directory: only its end can be compared.
fn is_at(mapped: &str, path: &str) -> bool {
    let path = path.strip_prefix("./").unwrap_or(path);
    let inside =
        |folder: &str| mapped.strip_prefix(folder).is_some_and(|rest| rest.starts_with('/') || rest.is_empty());
    if path.starts_with('/') {
        return inside(path.trim_end_matches('/'));
    }
    let path = path.trim_end_matches('/');
    let parent = mapped.rsplit_once('/').map_or("", |(parent, _)| parent);
    [mapped, parent].iter().any(|known| known.strip_suffix(path).is_some_and(|rest| rest.ends_with('/')))
        // Through links, nothing of the path need be left in the name.
        || path.rsplit('/').next() == mapped.rsplit('/').next()
}

/// Every choice of one mapping for each block, none twice, the likeliest first; with what was assumed.
fn assignments(blocks: &[Block]) -> Vec<(Vec<Area>, Vec<String>)> {
    let mut found: Vec<Vec<&Area>> = vec![Vec::new()];
    for block in blocks {
        let mut longer = Vec::new();
        for chosen in &found {
            for area in block.fit.iter().filter(|area| !chosen.contains(area)) {
                if longer.len() < MAX_LAYOUTS {
                    longer.push(chosen.iter().copied().chain([area]).collect());
                }
            }
        }
        found = longer;
    }
    let ambiguous: Vec<_> =
        blocks.iter().filter(|block| block.fit.len() > 1).map(|block| block.name.as_str()).collect();
    let assumed = if ambiguous.is_empty() {
        Vec::new()
    } else {
        vec![format!("assumed: which mapping is which of {}, of equal size", ambiguous.join(", "))]
    };
    found.into_iter().map(|chosen| (chosen.into_iter().cloned().collect(), assumed.clone())).collect()
}

/// `--memory size=4G,shared=on`: each side of the hole is a mapping of its own. Zones are known to its API alone.
fn cloud_hypervisor(words: &[String], areas: &[Area]) -> Result<Vec<Layout>, AttachError> {
    let memory = option(words, "--memory").unwrap_or_else(|| "size=512M".to_owned());
    let total = Fields::parse(&memory, "size").get("size").and_then(|text| size(text, 0)).unwrap_or(0);
    if total == 0 {
        return Err(unknown(
            "this cloud-hypervisor has its RAM in zones, or was told its size later: give ch:SOCKET of its API",
        ));
    }
    let map = Machine::CloudHypervisor.map(&[total], MachineOptions::default())?;
    mapped_apart(&map, areas)
}

/// The sizes of `map`'s segments, each a mapping of its own.
pub(super) fn mapped_apart(map: &SegmentMap, areas: &[Area]) -> Result<Vec<Layout>, AttachError> {
    let is_ram =
        |area: &Area| area.readable && area.writable && (area.shared || area.inode == 0) && !area.name.starts_with('[');
    let mut blocks = Vec::new();
    for segment in map.segments() {
        let mut fit = maps::of_len(areas, segment.len);
        fit.retain(is_ram);
        if fit.is_empty() {
            return Err(unknown(format!(
                "no mapping of the process has the {} that lie at guest physical {}",
                bytes(segment.len),
                segment.gpa
            )));
        }
        blocks.push(Block { name: format!("RAM at {}", segment.gpa), len: segment.len, fit });
    }
    let place = |(chosen, assumed): (Vec<Area>, Vec<String>)| {
        let piece = |(segment, area): (&vgpu_perception_mapped::Segment, &Area)| Piece {
            gpa: segment.gpa,
            len: segment.len,
            host_addr: area.start,
        };
        Layout { pieces: map.segments().iter().zip(&chosen).map(piece).collect(), assumed }
    };
    Ok(assignments(&blocks).into_iter().map(place).collect())
}

/// Firecracker is told its size over a socket: its largest mappings are what may be RAM.
fn firecracker(areas: &[Area]) -> Result<Vec<Layout>, AttachError> {
    const LOW: u64 = 3 << 30;
    let joined = maps::joined(areas);
    let is_ram = |area: &&Area| {
        area.readable
            && area.writable
            && area.len().is_multiple_of(1 << 20)
            && (area.name.is_empty() || area.name.starts_with("/memfd:guest_mem") || area.name.starts_with('/'))
    };
    let mut large: Vec<&Area> = joined.iter().filter(is_ram).collect();
    large.sort_by_key(|area| core::cmp::Reverse(area.len()));
    large.truncate(4);
    let mut layouts = Vec::new();
    for area in &large {
        let piece = |gpa: u64, len, skip| Piece { gpa: Gpa::new(gpa), len, host_addr: area.start + skip };
        let assumed = vec![format!("assumed: the mapping of {} is the guest's RAM", bytes(area.len()))];
        if area.len() == LOW {
            for other in large.iter().filter(|other| other.start != area.start) {
                let high = Piece { gpa: Gpa::new(4 << 30), len: other.len(), host_addr: other.start };
                layouts.push(Layout { pieces: vec![piece(0, LOW, 0), high], assumed: assumed.clone() });
            }
        }
        let map = Machine::Firecracker.map(&[area.len()], MachineOptions::default())?;
        let pieces = map.segments().iter().map(|part| piece(part.gpa.get(), part.len, part.offset)).collect();
        layouts.push(Layout { pieces, assumed });
    }
    if layouts.is_empty() {
        return Err(unknown("this Firecracker has no mapping that could be a guest's RAM: has the guest started?"));
    }
    layouts.truncate(MAX_LAYOUTS);
    Ok(layouts)
}

/// crosvm keeps all RAM in one file, region after region.
fn crosvm(areas: &[Area]) -> Result<Vec<Layout>, AttachError> {
    let of_guest: Vec<&Area> =
        areas.iter().filter(|area| area.shared && area.name.starts_with("/memfd:crosvm_guest")).collect();
    let total = of_guest.iter().map(|area| area.offset.saturating_add(area.len())).max().unwrap_or(0);
    if total == 0 {
        return Err(unknown("this crosvm has no file crosvm_guest mapped: has the guest started?"));
    }
    let map = Machine::Crosvm.map(&[total], MachineOptions::default())?;
    let mut pieces = Vec::new();
    for segment in map.segments() {
        let end = segment.offset + segment.len;
        for area in &of_guest {
            let first = area.offset.max(segment.offset);
            let last = area.offset.saturating_add(area.len()).min(end);
            if first < last {
                pieces.push(Piece {
                    gpa: segment.gpa.wrapping_add(first - segment.offset),
                    len: last - first,
                    host_addr: area.start + (first - area.offset),
                });
            }
        }
    }
    Ok(vec![Layout { pieces, assumed: vec!["assumed: crosvm's usual gap of 768 MiB below 4 GiB".to_owned()] }])
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn words(line: &str) -> Vec<String> {
        line.split(' ').map(str::to_owned).collect()
    }

    /// `start len name`, a line each; named ones are shared files.
    fn areas(list: &[(u64, u64, &str)]) -> Vec<Area> {
        let line = |(index, (start, len, name)): (usize, &(u64, u64, &str))| {
            let (rights, inode) = if name.is_empty() { ("rw-p", 0) } else { ("rw-s", index + 7) };
            format!("{start:x}-{:x} {rights} 00000000 00:01 {inode}   {name}\n", start + len)
        };
        maps::parse(&list.iter().enumerate().map(line).collect::<String>())
    }

    fn pieces(layout: &Layout) -> Vec<(u64, u64, u64)> {
        layout.pieces.iter().map(|piece| (piece.gpa.get(), piece.len, piece.host_addr)).collect()
    }

    #[test]
    fn a_default_guest_of_qemu() {
        let areas =
            areas(&[(0x10_0000, 64 << 20, ""), (0x7000_0000_0000, 4 * GIB, ""), (0x7f00_0000_0000, 0x1000, "")]);
        let found = layouts(Vmm::Qemu, &words("qemu -machine q35 -m 4096"), &areas).unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(pieces(&found[0]), [(0, 2 * GIB, 0x7000_0000_0000), (4 * GIB, 2 * GIB, 0x7000_8000_0000)]);
        assert_eq!(found[0].assumed, Vec::<String>::new());
        let error = layouts(Vmm::Qemu, &words("qemu -m 3G"), &areas).unwrap_err();
        assert!(error.to_string().contains("3 GiB"), "{error}");
        assert!(layouts(Vmm::Qemu, &words("qemu -M virt"), &areas).unwrap_err().to_string().contains("virt"));
    }

    #[test]
    fn cells_of_one_size_have_two_orders() {
        let line = words(
            "qemu -M pc -m 2G -object memory-backend-memfd,id=a,size=1G -object memory-backend-memfd,id=b,size=1G \
             -numa node,memdev=a -numa node,memdev=b -object memory-backend-ram,id=d,size=512M -device \
             pc-dimm,memdev=d",
        );
        let (low, high) = (0x7000_0000_0000, 0x7100_0000_0000);
        let memfd = "/memfd:memory-backend-memfd (deleted)";
        let areas = areas(&[(0x1000_0000, 512 << 20, ""), (low, GIB, memfd), (high, GIB, memfd)]);
        let found = layouts(Vmm::Qemu, &line, &areas).unwrap();
        let dimm = (4 * GIB, 512 << 20, 0x1000_0000);
        assert_eq!(found.len(), 2);
        assert_eq!(pieces(&found[0]), [(0, GIB, high), (GIB, GIB, low), dimm]);
        assert_eq!(pieces(&found[1]), [(0, GIB, low), (GIB, GIB, high), dimm]);
        assert!(found[0].assumed[0].contains("a, b"), "{:?}", found[0].assumed);
    }

    #[test]
    fn a_file_by_its_path() {
        let areas = areas(&[
            (GIB, GIB, "/srv/other/ram"),
            (4 * GIB, GIB, "/srv/vm/ram"),
            (8 * GIB, GIB, "/dev/shm/x (deleted)"),
        ]);
        let at = |path: &str| {
            let line =
                format!("qemu -m 1G -object memory-backend-file,id=m,size=1G,mem-path={path} -M pc,memory-backend=m");
            let found = layouts(Vmm::Qemu, &words(&line), &areas).unwrap();
            found.iter().map(|layout| layout.pieces[0].host_addr).collect::<Vec<_>>()
        };
        assert_eq!(at("/srv/vm/ram"), [4 * GIB]);
        assert_eq!(at("/dev/shm"), [8 * GIB]);
        assert_eq!(at("vm/ram"), [4 * GIB, GIB], "the name alone fits as well, and is proven later");
        assert_eq!(at("x"), [8 * GIB]);
    }

    #[test]
    fn other_machines() {
        let areas = areas(&[
            (GIB, 3 * GIB, ""),
            (8 * GIB, GIB, ""),
            (0x7000_0000_0000, 4 * GIB, "/memfd:crosvm_guest (deleted)"),
        ]);
        let found = layouts(Vmm::CloudHypervisor, &words("cloud-hypervisor --memory size=4G"), &areas).unwrap();
        assert_eq!(pieces(&found[0]), [(0, 3 * GIB, GIB), (4 * GIB, GIB, 8 * GIB)]);
        let found = layouts(Vmm::Crosvm, &words("crosvm run"), &areas).unwrap();
        assert_eq!(pieces(&found[0])[1], (4 * GIB, 4 * GIB - 0xd000_0000, 0x7000_d000_0000));
        let found = layouts(Vmm::Firecracker, &words("firecracker"), &areas[..2]).unwrap();
        assert_eq!(pieces(&found[0]), [(0, 3 * GIB, GIB), (4 * GIB, GIB, 8 * GIB)]);
        assert_eq!(pieces(&found[1]), [(0, 3 * GIB, GIB)]);
    }
}
