//! How people name a guest.

use core::str::FromStr;
use std::os::unix::fs::FileTypeExt as _;
use std::path::{Path, PathBuf};

use vgpu_perception::Cr3;
use vgpu_perception_mapped::{Machine, MachineOptions, SegmentMap};

use super::error::{AttachError, AttachErrorKind};
use super::monitor::MonitorAddress;
use super::vmm::{self, Vmm};
use super::{core_file, peer};

/// Where a guest is found.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum GuestSource {
    /// By QEMU's monitor: `qmp:PATH`, `qmp:HOST:PORT`.
    Monitor(MonitorAddress),
    /// By the process that runs it: `pid:N`.
    Pid(u32),
    /// By its name: `name:NAME`.
    Name(String),
    /// By cloud-hypervisor's API: `ch:SOCKET`.
    CloudHypervisor(PathBuf),
    /// By the files that hold its RAM, in order: `ram:FILE[,FILE…]`.
    Ram(Vec<PathBuf>),
    /// A file that was written when the guest stood still: `core:FILE`.
    Core(PathBuf),
}

impl core::fmt::Display for GuestSource {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Monitor(address) => write!(f, "qmp:{address}"),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
            Self::Name(name) => write!(f, "name:{name}"),
            Self::CloudHypervisor(path) => write!(f, "ch:{}", path.display()),
            Self::Ram(paths) => {
                f.write_str("ram:")?;
                for (index, path) in paths.iter().enumerate() {
                    write!(f, "{}{}", if index == 0 { "" } else { "," }, path.display())?;
                }
                Ok(())
            }
            Self::Core(path) => write!(f, "core:{}", path.display()),
        }
    }
}

/// A guest, and what is known of it besides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GuestSpec {
    pub(super) source: GuestSource,
    pub(super) map: Option<SegmentMap>,
    pub(super) machine: Option<(Machine, MachineOptions)>,
    pub(super) root: Option<Cr3>,
}

impl GuestSpec {
    /// A guest of which nothing more is known.
    #[must_use]
    pub const fn new(source: GuestSource) -> Self {
        Self { source, map: None, machine: None, root: None }
    }

    /// Where it is found.
    #[must_use]
    pub const fn source(&self) -> &GuestSource {
        &self.source
    }

    /// Where its RAM lies in its files; only for [`GuestSource::Ram`].
    #[must_use]
    pub fn map(mut self, map: SegmentMap) -> Self {
        self.map = Some(map);
        self
    }

    /// How its machine splits RAM; for [`GuestSource::Ram`], and where a process does not say.
    #[must_use]
    pub const fn machine(mut self, machine: Machine, options: MachineOptions) -> Self {
        self.machine = Some((machine, options));
        self
    }

    /// The page-table root of any of its processes.
    #[must_use]
    pub const fn cr3(mut self, root: Cr3) -> Self {
        self.root = Some(root);
        self
    }
}

impl FromStr for GuestSpec {
    type Err = AttachError;

    /// Takes the explicit forms, and a bare word where it can mean one thing only: a path, a process, or a name.
    fn from_str(text: &str) -> Result<Self, AttachError> {
        let source = match text.split_once(':') {
            Some(("qmp", rest)) if !rest.is_empty() => GuestSource::Monitor(MonitorAddress::parse(rest)),
            Some(("pid", rest)) => match rest.parse() {
                Ok(pid) => GuestSource::Pid(pid),
                Err(_) => {
                    return Err(usage(format!("{text:?}: {rest:?} is not the number of a process; write pid:1234")));
                }
            },
            Some(("name", rest)) if !rest.is_empty() => GuestSource::Name(rest.to_owned()),
            Some(("ch", rest)) if !rest.is_empty() => GuestSource::CloudHypervisor(rest.into()),
            Some(("ram", rest)) if !rest.is_empty() => GuestSource::Ram(rest.split(',').map(PathBuf::from).collect()),
            Some(("core", rest)) if !rest.is_empty() => GuestSource::Core(rest.into()),
            Some((kind @ ("qmp" | "name" | "ch" | "ram" | "core"), _)) => {
                return Err(usage(format!("{text:?} names no guest: something has to follow `{kind}:`")));
            }
            _ => bare(text)?,
        };
        Ok(Self::new(source))
    }
}

fn usage(message: String) -> AttachError {
    AttachError::new(AttachErrorKind::Usage, message)
}

/// What a word without a kind means on this host, now.
fn bare(word: &str) -> Result<GuestSource, AttachError> {
    let mut meanings: Vec<GuestSource> = Vec::new();
    // Only a word that looks like a path is one where no such file exists: the error then says so.
    if Path::new(word).exists() || word.contains('/') {
        meanings.push(of_path(Path::new(word)));
    }
    let running = if word.contains('/') { Vec::new() } else { vmm::all() };
    if let Ok(pid) = word.parse::<u32>()
        && running.iter().any(|vm| vm.pid() == pid)
    {
        meanings.push(GuestSource::Pid(pid));
    }
    if running.iter().any(|vm| vm.name.as_deref() == Some(word)) {
        meanings.push(GuestSource::Name(word.to_owned()));
    }
    match meanings.len() {
        1 => Ok(meanings.remove(0)),
        0 if word.is_empty() => {
            Err(usage("the guest's name is empty; `vgpu list` shows the virtual machines of this host".into()))
        }
        // The error of the only thing it can be says what there is instead.
        0 if word.parse::<u32>().is_ok() => Ok(GuestSource::Pid(word.parse().unwrap_or(0))),
        0 => Ok(GuestSource::Name(word.to_owned())),
        _ => {
            let forms: Vec<_> = meanings.iter().map(ToString::to_string).collect();
            Err(usage(format!(
                "{word:?} could be {} things; nothing was read. Give {}",
                forms.len(),
                forms.join(" or ")
            )))
        }
    }
}

fn of_path(path: &Path) -> GuestSource {
    let is_socket = std::fs::metadata(path).is_ok_and(|meta| meta.file_type().is_socket());
    if is_socket {
        return match peer::vmm_behind(path) {
            Some(Vmm::CloudHypervisor) => GuestSource::CloudHypervisor(path.into()),
            _ => GuestSource::Monitor(MonitorAddress::Unix(path.into())),
        };
    }
    if core_file::is_one(path) { GuestSource::Core(path.into()) } else { GuestSource::Ram(vec![path.into()]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> GuestSource {
        text.parse::<GuestSpec>().unwrap().source
    }

    #[test]
    fn explicit_forms() {
        assert_eq!(source("pid:77"), GuestSource::Pid(77));
        assert_eq!(source("name:a:b"), GuestSource::Name("a:b".into()));
        assert_eq!(source("ram:/a,/b"), GuestSource::Ram(vec!["/a".into(), "/b".into()]));
        assert_eq!(source("core:x"), GuestSource::Core("x".into()));
        assert_eq!(source("ch:/run/ch.sock"), GuestSource::CloudHypervisor("/run/ch.sock".into()));
        assert_eq!(source("qmp:127.0.0.1:4444"), GuestSource::Monitor(MonitorAddress::Tcp("127.0.0.1:4444".into())));
        for text in ["pid:77", "name:a:b", "ram:/a,/b", "core:x", "ch:/s", "qmp:/q", "qmp:127.0.0.1:4444"] {
            assert_eq!(source(text).to_string(), text);
        }
        for text in ["pid:x", "pid:", "name:", "ram:", ""] {
            assert_eq!(text.parse::<GuestSpec>().unwrap_err().kind(), AttachErrorKind::Usage, "{text}");
        }
    }

    #[test]
    fn bare_words() {
        let path = std::env::temp_dir().join(format!("vgpu-spec-{}", std::process::id()));
        std::fs::write(&path, [1; 4096]).unwrap();
        let text = path.display().to_string();
        assert_eq!(source(&text), GuestSource::Ram(vec![path.clone()]));
        std::fs::write(&path, [&b"\x7fELF"[..], &[0; 60]].concat()).unwrap();
        assert_eq!(source(&text), GuestSource::Core(path.clone()));
        std::fs::remove_file(&path).unwrap();
        assert_eq!(source(&text), GuestSource::Ram(vec![path]));
        assert_eq!(source("no-such-guest"), GuestSource::Name("no-such-guest".into()));
        assert_eq!(source("4294967294"), GuestSource::Pid(4_294_967_294));
    }
}
