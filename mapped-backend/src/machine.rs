//! How the machines of QEMU and cloud-hypervisor split their RAM around the hole below 4 GiB.
//!
//! All of them keep one dense block of RAM: the part below the hole first, the rest at 4 GiB or above. Only the split
//! differs, and where the RAM comes from several files (QEMU's `-numa node,memdev=`, cloud-hypervisor's zones) they are
//! laid end to end first and split afterwards, so that one file may lie on both sides of the hole.

use core::str::FromStr;

use vgpu_perception::{Gpa, PAGE_BYTES};

use crate::map::{MapError, Segment, SegmentMap, parse_number};

const GIB: u64 = 1 << 30;

/// A machine whose layout is known here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Machine {
    /// QEMU `pc` (i440fx), version 2.0 or newer: `hw/i386/pc_piix.c`.
    Pc,
    /// QEMU `q35`: `hw/i386/pc_q35.c`.
    Q35,
    /// QEMU `microvm`: `hw/i386/microvm.c`.
    Microvm,
    /// cloud-hypervisor on x86-64: `arch/src/x86_64/layout.rs`.
    CloudHypervisor,
    /// Firecracker on x86-64: `src/vmm/src/arch/x86_64/layout.rs`.
    Firecracker,
    /// crosvm on x86-64, with its usual gap of 768 MiB below 4 GiB: `x86_64/src/lib.rs`.
    Crosvm,
}

impl FromStr for Machine {
    type Err = MapError;

    /// Takes `pc`, `q35`, `microvm`, `ch` or `cloud-hypervisor`, `firecracker` and `crosvm`, and QEMU's versioned names
    /// such as `pc-q35-8.2`.
    fn from_str(name: &str) -> Result<Self, MapError> {
        match name {
            "pc" => Ok(Self::Pc),
            "q35" => Ok(Self::Q35),
            "microvm" => Ok(Self::Microvm),
            "ch" | "cloud-hypervisor" => Ok(Self::CloudHypervisor),
            "firecracker" => Ok(Self::Firecracker),
            "crosvm" => Ok(Self::Crosvm),
            _ if name.starts_with("pc-q35-") => Ok(Self::Q35),
            _ if name.starts_with("pc-i440fx-") => Ok(Self::Pc),
            _ => Err(MapError::UnknownMachine { name: name.to_owned() }),
        }
    }
}

/// Where the RAM above the hole starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum HighBase {
    /// At 4 GiB.
    #[default]
    Gib4,
    /// At 1 TiB: QEMU 7.1 and newer, for AMD processors whose RAM would reach into the HyperTransport hole
    /// (`0xfd_0000_0000`).
    Tib1,
}

impl HighBase {
    const fn gpa(self) -> u64 {
        match self {
            Self::Gib4 => 4 * GIB,
            Self::Tib1 => 1 << 40,
        }
    }
}

/// Options of a virtual machine that move the split.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct MachineOptions {
    /// QEMU's `max-ram-below-4g` in bytes, where it was given; `pc` and `q35` have it.
    pub max_ram_below_4g: Option<u64>,
    /// Where the rest lies.
    pub high_base: HighBase,
}

/// Reads a machine and its options: `q35`, `pc,max-ram-below-4g=2G`, `q35,above-4g=1T`.
///
/// # Errors
/// [`MapError::UnknownMachine`], or [`MapError::MachineOption`] with what is no option.
pub fn parse_machine(text: &str) -> Result<(Machine, MachineOptions), MapError> {
    let mut fields = text.split(',');
    let machine = fields.next().unwrap_or_default().parse()?;
    let mut options = MachineOptions::default();
    for field in fields {
        let unknown = || MapError::MachineOption { text: field.to_owned() };
        let (key, value) = field.split_once('=').ok_or_else(unknown)?;
        match (key, parse_number(value)) {
            ("max-ram-below-4g", Some(bytes)) => options.max_ram_below_4g = Some(bytes),
            ("above-4g", Some(at)) if at == 4 * GIB => options.high_base = HighBase::Gib4,
            ("above-4g", Some(at)) if at == 1 << 40 => options.high_base = HighBase::Tib1,
            _ => return Err(unknown()),
        }
    }
    Ok((machine, options))
}

impl Machine {
    /// How many bytes of `ram` lie below the hole.
    ///
    /// # Errors
    /// [`MapError::RamSize`] for no RAM or a part of a page, [`MapError::MaxRamBelow4g`] for a limit above 4 GiB, of
    /// part of a page, or of nothing.
    pub fn below_4g(self, ram: u64, options: MachineOptions) -> Result<u64, MapError> {
        if ram == 0 || !ram.is_multiple_of(PAGE_BYTES) {
            return Err(MapError::RamSize { bytes: ram });
        }
        if let Some(bytes) = options.max_ram_below_4g.filter(|max| *max == 0 || *max > 4 * GIB || max % PAGE_BYTES != 0)
        {
            return Err(MapError::MaxRamBelow4g { bytes });
        }
        let lowest = match self {
            Self::Pc => {
                // 3.5 GiB is the limit until RAM reaches it; then the split moves to a whole GiB, 3.
                let max = options.max_ram_below_4g.unwrap_or(0xe000_0000);
                if ram >= max { max.min(3 * GIB) } else { max }
            }
            Self::Q35 => {
                let usual = if ram >= 0xb000_0000 { 2 * GIB } else { 0xb000_0000 };
                usual.min(options.max_ram_below_4g.unwrap_or(4 * GIB))
            }
            Self::Microvm | Self::CloudHypervisor | Self::Firecracker => 3 * GIB,
            Self::Crosvm => 0xd000_0000,
        };
        Ok(ram.min(lowest))
    }

    /// Where RAM may lie, ascending: the address and how much fits there.
    fn windows(self, below: u64, options: MachineOptions) -> Vec<(u64, u64)> {
        let high = options.high_base.gpa();
        match self {
            // Devices lie between 256 and 512 GiB as well.
            Self::Firecracker => vec![(0, below), (4 * GIB, 252 * GIB), (512 * GIB, u64::MAX)],
            _ => vec![(0, below), (high, u64::MAX)],
        }
    }

    /// The map of a machine whose RAM is made of files of these sizes, laid end to end in this order.
    ///
    /// ```
    /// use vgpu_perception_mapped::{Machine, MachineOptions};
    /// let map = Machine::Q35.map(&[3 << 30], MachineOptions::default())?;
    /// assert_eq!(map.to_string(), "0x0:0x80000000:0x0 (file 0), 0x100000000:0x40000000:0x80000000 (file 0)");
    /// # Ok::<(), vgpu_perception_mapped::MapError>(())
    /// ```
    ///
    /// # Errors
    /// As [`below_4g`](Self::below_4g), and what [`SegmentMap::new`] gives.
    pub fn map(self, files: &[u64], options: MachineOptions) -> Result<SegmentMap, MapError> {
        let ram = files.iter().try_fold(0_u64, |sum, len| sum.checked_add(*len));
        let ram = ram.ok_or(MapError::RamSize { bytes: u64::MAX })?;
        let below = self.below_4g(ram, options)?;
        let windows = self.windows(below, options);
        let mut segments = Vec::new();
        // Where in all of RAM the present window begins.
        let (mut window, mut begun) = (0, 0);
        let mut done = 0;
        for (file, len) in files.iter().copied().enumerate() {
            let mut offset = 0;
            while offset < len {
                let (gpa, room) = windows.get(window).copied().unwrap_or((u64::MAX, u64::MAX));
                let used = done - begun;
                if used == room {
                    (window, begun) = (window + 1, done);
                    continue;
                }
                let some = (len - offset).min(room - used);
                let gpa = gpa.checked_add(used).ok_or(MapError::RamSize { bytes: ram })?;
                segments.push(Segment { gpa: Gpa::new(gpa), len: some, file, offset });
                offset += some;
                done += some;
            }
        }
        SegmentMap::new(segments)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const PAGE: u64 = PAGE_BYTES;

    fn below(machine: Machine, ram: u64) -> u64 {
        machine.below_4g(ram, MachineOptions::default()).unwrap()
    }

    fn limited(machine: Machine, ram: u64, max: u64) -> u64 {
        machine.below_4g(ram, MachineOptions { max_ram_below_4g: Some(max), ..Default::default() }).unwrap()
    }

    #[test]
    fn pc_splits_at_3_gib_once_ram_reaches_3_5() {
        let edge = 0xe000_0000;
        for (ram, low) in [
            (PAGE, PAGE),
            (GIB, GIB),
            (3 * GIB, 3 * GIB),
            (3 * GIB + 256 * MIB, 3 * GIB + 256 * MIB),
            (edge - PAGE, edge - PAGE),
            (edge, 3 * GIB),
            (edge + PAGE, 3 * GIB),
            (4 * GIB, 3 * GIB),
            (64 * GIB, 3 * GIB),
        ] {
            assert_eq!(below(Machine::Pc, ram), low, "{ram:#x}");
        }
        // The examples in QEMU's own comment.
        assert_eq!(limited(Machine::Pc, 4 * GIB, 2 * GIB), 2 * GIB);
        assert_eq!(limited(Machine::Pc, 3968 * MIB, 4 * GIB), 3968 * MIB);
        assert_eq!(limited(Machine::Pc, 4 * GIB, 4 * GIB), 3 * GIB);
        assert_eq!(limited(Machine::Pc, GIB, 2 * GIB), GIB);
        assert_eq!(limited(Machine::Pc, 2 * GIB, 2 * GIB), 2 * GIB);
    }

    #[test]
    fn q35_splits_at_2_gib_once_ram_reaches_2_75() {
        let edge = 0xb000_0000;
        for (ram, low) in [
            (2 * GIB, 2 * GIB),
            (2 * GIB + PAGE, 2 * GIB + PAGE),
            (edge - PAGE, edge - PAGE),
            (edge, 2 * GIB),
            (edge + PAGE, 2 * GIB),
            (3 * GIB, 2 * GIB),
            (64 * GIB, 2 * GIB),
        ] {
            assert_eq!(below(Machine::Q35, ram), low, "{ram:#x}");
        }
        assert_eq!(limited(Machine::Q35, 3 * GIB, GIB), GIB);
        assert_eq!(limited(Machine::Q35, 3 * GIB, 3 * GIB), 2 * GIB, "the option lowers the split, it never raises it");
        assert_eq!(limited(Machine::Q35, 2 * GIB + 512 * MIB, 2 * GIB), 2 * GIB);
    }

    #[test]
    fn microvm_and_cloud_hypervisor_split_at_3_gib() {
        for machine in [Machine::Microvm, Machine::CloudHypervisor] {
            for (ram, low) in
                [(3 * GIB - PAGE, 3 * GIB - PAGE), (3 * GIB, 3 * GIB), (3 * GIB + PAGE, 3 * GIB), (8 * GIB, 3 * GIB)]
            {
                assert_eq!(below(machine, ram), low, "{machine:?} {ram:#x}");
            }
        }
    }

    #[test]
    fn the_rest_lies_at_4_gib_or_at_1_tib() {
        let low = Segment { gpa: Gpa::new(0), len: 2 * GIB, file: 0, offset: 0 };
        let high = Segment { gpa: Gpa::new(4 * GIB), len: GIB, file: 0, offset: 2 * GIB };
        let map = Machine::Q35.map(&[3 * GIB], MachineOptions::default()).unwrap();
        assert_eq!(map.segments(), [low, high]);
        let options = MachineOptions { high_base: HighBase::Tib1, ..Default::default() };
        let map = Machine::Q35.map(&[3 * GIB], options).unwrap();
        assert_eq!(map.segments(), [low, Segment { gpa: Gpa::new(1 << 40), ..high }]);
        let one = Machine::Pc.map(&[3 * GIB], MachineOptions::default()).unwrap();
        assert_eq!(one.segments().len(), 1, "nothing above: no second segment");
    }

    #[test]
    fn a_file_may_lie_on_both_sides_of_the_hole() {
        let map = Machine::Q35.map(&[GIB, 2 * GIB, GIB], MachineOptions::default()).unwrap();
        let segment = |gpa, len, file, offset| Segment { gpa: Gpa::new(gpa), len, file, offset };
        assert_eq!(
            map.segments(),
            [
                segment(0, GIB, 0, 0),
                segment(GIB, GIB, 1, 0),
                segment(4 * GIB, GIB, 1, GIB),
                segment(5 * GIB, GIB, 2, 0),
            ]
        );
    }

    #[test]
    fn firecracker_and_crosvm() {
        assert_eq!(below(Machine::Crosvm, 4 * GIB), 0xd000_0000);
        let map = Machine::Firecracker.map(&[300 * GIB], MachineOptions::default()).unwrap();
        let segment = |gpa, len, offset| Segment { gpa: Gpa::new(gpa), len, file: 0, offset };
        assert_eq!(
            map.segments(),
            [segment(0, 3 * GIB, 0), segment(4 * GIB, 252 * GIB, 3 * GIB), segment(512 * GIB, 45 * GIB, 255 * GIB),]
        );
        let two = Machine::Firecracker.map(&[254 * GIB, 2 * GIB], MachineOptions::default()).unwrap();
        assert_eq!(two.segments()[3], Segment { gpa: Gpa::new(512 * GIB), len: GIB, file: 1, offset: GIB });
    }

    #[test]
    fn machines_come_with_options() {
        let (machine, options) = parse_machine("q35,max-ram-below-4g=2G,above-4g=1T").unwrap();
        assert_eq!((machine, options.max_ram_below_4g), (Machine::Q35, Some(2 * GIB)));
        assert_eq!(options.high_base, HighBase::Tib1);
        assert_eq!(parse_machine("crosvm"), Ok((Machine::Crosvm, MachineOptions::default())));
        for text in ["pc,x", "pc,above-4g=5G", "pc,max-ram-below-4g=z", "pc,"] {
            assert!(matches!(parse_machine(text), Err(MapError::MachineOption { .. })), "{text}");
        }
        assert!(matches!(parse_machine("pdp11,x"), Err(MapError::UnknownMachine { .. })));
    }

    #[test]
    fn sizes_that_cannot_be_are_refused() {
        let plain = MachineOptions::default();
        assert_eq!(Machine::Pc.map(&[], plain), Err(MapError::RamSize { bytes: 0 }));
        assert_eq!(Machine::Pc.map(&[1], plain), Err(MapError::RamSize { bytes: 1 }));
        assert_eq!(Machine::Pc.map(&[u64::MAX, PAGE], plain), Err(MapError::RamSize { bytes: u64::MAX }));
        let vast = u64::MAX - 0xfff;
        assert!(matches!(Machine::Pc.map(&[vast], plain), Err(MapError::GpaOverflow { .. })));
        for bytes in [0, 1, 4 * GIB + PAGE] {
            let options = MachineOptions { max_ram_below_4g: Some(bytes), ..plain };
            assert_eq!(Machine::Q35.map(&[GIB], options), Err(MapError::MaxRamBelow4g { bytes }));
        }
    }

    #[test]
    fn names_are_those_of_the_command_lines() {
        assert_eq!("pc-q35-8.2".parse(), Ok(Machine::Q35));
        assert_eq!("pc-i440fx-7.2".parse(), Ok(Machine::Pc));
        assert_eq!("ch".parse(), Ok(Machine::CloudHypervisor));
        assert_eq!("virt".parse::<Machine>(), Err(MapError::UnknownMachine { name: "virt".to_owned() }));
    }
}
