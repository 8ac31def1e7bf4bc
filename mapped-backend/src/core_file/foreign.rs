//! Files that people have and that cannot be read in place: known by their magic, and what to do with them.

use core::fmt;

/// Bytes at the start of a file that are looked at.
pub(super) const START: usize = 64;

/// A kind of file that holds a guest's memory in a way that cannot be mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Foreign {
    /// What it is.
    pub name: &'static str,
    /// What to do about it.
    pub remedy: &'static str,
}

const DUMP: &str =
    "make an ELF core: `dump-guest-memory FILE` in QEMU's monitor, or `virsh dump --memory-only GUEST FILE`";
const MAKEDUMPFILE: &str = "make an ELF core instead (`dump-guest-memory FILE` without -z, -l, -s, -R; `virsh dump \
     --memory-only --format elf`)";
const STATE: &str = "a saved state holds compressed pages and devices, not RAM in its order: load it into a virtual \
                     machine, and make an ELF core of that (`dump-guest-memory FILE`, `virsh dump --memory-only GUEST \
                     FILE`)";
const UNPACK: &str = "unpack it first";
const AVML: &str = "convert it first: `avml-convert FILE OUTPUT` gives a LiME dump without compression";
const WINDOWS: &str =
    "crash dumps of Windows are not read; make an ELF core from the host instead (`dump-guest-memory FILE`)";
const DISK: &str = "it is a disk, not memory; give the guest's RAM file, its monitor, or a core";
const VMWARE: &str = "VMware's states are not read; convert the .vmem and .vmss with vmss2core, or use an ELF core";

/// Where in the file a magic stands, the magic, and what it means.
const KNOWN: &[(usize, &[u8], &str, &str)] = &[
    (0, b"KDUMP   ", "a kdump-compressed dump", MAKEDUMPFILE),
    (0, b"DISKDUMP", "a compressed dump of diskdump", MAKEDUMPFILE),
    (0, b"makedumpfile", "a flattened dump of makedumpfile", MAKEDUMPFILE),
    (0, b"QEVM", "a saved state of QEMU (savevm, migrate)", STATE),
    (0, b"LibvirtQemudSave", "a saved guest of libvirt (virsh save, or virsh dump without --memory-only)", STATE),
    (0, b"LibvirtQemudPart", "a part of a saved guest of libvirt", STATE),
    (0, b"\x7fVirtualBox SavedState", "a saved state of VirtualBox", STATE),
    (0, b"\x1f\x8b", "a gzip file", UNPACK),
    (0, b"\xfd7zXZ\0", "an xz file", UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a zstd file", UNPACK),
    (0, b"\x04\x22\x4d\x18", "an lz4 file", UNPACK),
    (0, b"BZh", "a bzip2 file", UNPACK),
    (0, b"\x89LZO", "an lzop file", UNPACK),
    (0, b"PK\x03\x04", "a zip file", UNPACK),
    (0, b"AVML", "a compressed dump of AVML", AVML),
    (0, b"PAGEDU64", "a crash dump of Windows", WINDOWS),
    (0, b"PAGEDUMP", "a crash dump of 32-bit Windows", WINDOWS),
    (0, b"MDMP", "a minidump of a Windows process", DUMP),
    (0, b"\xd0\xbe\xd2\xbe", "a saved state of VMware", VMWARE),
    (0, b"\xd1\xba\xd1\xba", "a saved state of VMware", VMWARE),
    (0, b"\xd2\xbe\xd2\xbe", "a saved state of VMware", VMWARE),
    (0, b"\xd3\xbe\xd3\xbe", "a saved state of VMware", VMWARE),
    (0, b"QFI\xfb", "a qcow2 image", DISK),
    (0, b"KDMV", "a disk image of VMware", DISK),
    (0, b"<<< Oracle VM VirtualBox Disk Image", "a disk image of VirtualBox", DISK),
    (0, b"vhdxfile", "a VHDX image", DISK),
];

impl Foreign {
    /// What the file is that starts like this, where that is known.
    #[must_use]
    pub fn of(start: &[u8]) -> Option<Self> {
        let has = |at: usize, magic: &[u8]| start.get(at..).is_some_and(|rest| rest.starts_with(magic));
        let (_, _, name, remedy) = KNOWN.iter().find(|(at, magic, ..)| has(*at, magic))?;
        Some(Self { name, remedy })
    }
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "this is {}: {}", self.name, self.remedy)
    }
}
