//! What a reader found, held against the truth.

use vgpu_perception::process::nt::{DescriptorShape, FieldName, Layout as Found, NtKernel};

use super::layout::VadShape;
use super::{TruthProcess, WindowsGuest};

impl WindowsGuest {
    /// The offset that a field really has; `None` where the guest has no such field.
    #[must_use]
    pub const fn offset(&self, field: FieldName) -> Option<u32> {
        let layout = &self.truth.layout;
        Some(match field {
            FieldName::DirectoryTableBase => layout.directory_table_base,
            FieldName::UserDirectoryTableBase => return layout.user_root_at(self.truth.kpti),
            FieldName::UniqueProcessId => layout.pid,
            FieldName::ActiveProcessLinks => layout.links,
            FieldName::ImageFileName => layout.image_name,
            FieldName::CreateTime => layout.create_time,
            FieldName::ExitTime => layout.exit_time,
            FieldName::ExitStatus => layout.exit_status,
            FieldName::Peb => layout.peb,
            FieldName::SectionBaseAddress => layout.section_base,
            FieldName::InheritedFromUniqueProcessId => layout.ppid,
            FieldName::VadRoot => layout.vad_root,
        })
    }

    /// Says which fields were found at a wrong place, and which were not found.
    #[must_use]
    pub fn compare(&self, found: &Found) -> (Vec<FieldName>, Vec<FieldName>) {
        let (mut wrong, mut absent) = (Vec::new(), Vec::new());
        for (name, field) in found.fields() {
            match field {
                None => absent.push(name),
                Some(field) if self.offset(name) == Some(field.offset.into()) => {}
                Some(_) => wrong.push(name),
            }
        }
        if let Some((_, shape)) = found.descriptors {
            let shapes = [
                (VadShape::Win2003, DescriptorShape::Windows7),
                (VadShape::Win7, DescriptorShape::Windows7),
                (VadShape::Win8, DescriptorShape::Windows8),
                (VadShape::Win81, DescriptorShape::Windows81),
            ];
            let real = self.truth.layout.vad;
            if !shapes.contains(&(real, shape)) {
                wrong.push(FieldName::VadRoot);
            }
        }
        (wrong, absent)
    }

    /// Asserts that `kernel` is this guest's.
    ///
    /// # Panics
    /// Where it is not.
    pub fn assert_kernel(&self, kernel: &NtKernel) {
        let truth = &self.truth;
        let name = truth.layout.name;
        assert_eq!(kernel.root.table(), truth.kcr3.table(), "{name}");
        assert_eq!(kernel.mode, truth.mode, "{name}");
        assert_eq!((kernel.image.base, u64::from(kernel.image.bytes)), (truth.nt_base, truth.nt_bytes), "{name}");
        assert_eq!(kernel.system, truth.processes[0].eprocess, "{name}");
        let (wrong, _) = self.compare(&kernel.layout);
        assert!(wrong.is_empty(), "{name}: {wrong:?}");
    }

    /// The process whose object is at that address.
    #[must_use]
    pub fn owner(&self, eprocess: vgpu_perception::Gva) -> Option<&TruthProcess> {
        self.truth.processes.iter().find(|process| process.eprocess == eprocess)
    }
}
