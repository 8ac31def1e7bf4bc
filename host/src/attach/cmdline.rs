//! What a virtual machine was started with: the words of `/proc/PID/cmdline`, parsed.
//!
//! QEMU's options come as `key=value,...` with commas doubled inside values, or as JSON; libvirt writes both kinds.
//! What cannot be understood is left out: the words are a hint, and what is found in RAM has to bear them out.

use serde_json::Value;

/// The words of a command line: `cmdline` as `/proc` gives it, each word ended by a zero byte.
#[must_use]
pub fn words(cmdline: &[u8]) -> Vec<String> {
    let text = cmdline.strip_suffix(&[0]).unwrap_or(cmdline);
    text.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

/// What kind of memory a backend of QEMU's takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BackendKind {
    /// `memory-backend-ram`: memory of the process.
    Ram,
    /// `memory-backend-memfd`: a file without a name.
    Memfd,
    /// `memory-backend-file`: a file, or an unlinked one in a directory.
    File,
}

/// One of QEMU's memory backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its name.
    pub id: String,
    /// Its kind.
    pub kind: BackendKind,
    /// Its size in bytes.
    pub size: u64,
    /// `mem-path`, as it was given: a file or a directory, of QEMU's mount namespace and working directory.
    pub path: Option<String>,
    /// Where in the file it starts, in bytes (`offset`).
    pub offset: u64,
}

/// A memory device (DIMM, nvdimm, virtio-mem).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemoryDevice {
    /// The backend that it shows.
    pub memdev: String,
    /// Where the guest sees it, if that was given.
    pub gpa: Option<u64>,
}

/// What QEMU's command line says of a guest and its RAM.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct QemuLine {
    /// The guest's name (`-name`).
    pub name: Option<String>,
    /// The machine (`-machine`); QEMU's own default is `pc`.
    pub machine: Option<String>,
    /// RAM in bytes (`-m`), without memory devices.
    pub ram: u64,
    /// RAM in bytes with all memory devices that could be plugged in later (`maxmem=`), where there may be any.
    pub max_ram: Option<u64>,
    /// How many memory devices there may be (`slots=`).
    pub slots: u64,
    /// `max-ram-below-4g` in bytes.
    pub max_ram_below_4g: Option<u64>,
    /// The backend of all RAM (`memory-backend=`).
    pub memory_backend: Option<String>,
    /// The backends of the NUMA cells, in order of the cells.
    pub cells: Vec<String>,
    /// All backends.
    pub backends: Vec<Backend>,
    /// Memory devices, in order.
    pub devices: Vec<MemoryDevice>,
    /// `-mem-path`.
    pub mem_path: Option<String>,
    /// What encrypts the guest's RAM (`sev-guest`, `tdx-guest`), where something does.
    pub encrypted: Option<String>,
    /// Where its QMP monitors listen, as given.
    pub monitors: Vec<String>,
}

/// RAM of a QEMU that was told no size.
const USUAL_RAM: u64 = 128 << 20;

impl QemuLine {
    /// Reads the words after the program's own name.
    #[must_use]
    pub fn parse(words: &[String]) -> Self {
        let mut line = Self { ram: USUAL_RAM, ..Self::default() };
        let mut rest = words.iter().skip(1);
        while let Some(word) = rest.next() {
            let Some(option) = word.strip_prefix("--").or_else(|| word.strip_prefix('-')) else { continue };
            if !OPTIONS.contains(&option) {
                continue;
            }
            let Some(value) = rest.next() else { break };
            line.option(option, value);
        }
        line
    }

    fn option(&mut self, option: &str, value: &str) {
        match option {
            "name" => {
                let fields = Fields::parse(value, "guest");
                self.name = fields.get("guest").map(str::to_owned);
            }
            "machine" | "M" => self.machine(&Fields::parse(value, "type")),
            "m" => {
                let fields = Fields::parse(value, "size");
                if let Some(size) = fields.get("size").and_then(|text| size(text, 20)) {
                    self.ram = size;
                }
                self.max_ram = fields.get("maxmem").and_then(|text| size(text, 20)).or(self.max_ram);
                self.slots = fields.get("slots").and_then(|text| text.parse().ok()).unwrap_or(self.slots);
            }
            "object" => self.object(&Fields::parse(value, "qom-type")),
            "numa" => {
                let fields = Fields::parse(value, "type");
                if let Some(memdev) = fields.get("memdev") {
                    self.cells.push(memdev.to_owned());
                }
            }
            "device" => self.device(&Fields::parse(value, "driver")),
            "mem-path" => self.mem_path = Some(value.to_owned()),
            "qmp" | "qmp-pretty" => self.monitors.push(value.to_owned()),
            _ => {}
        }
    }

    fn machine(&mut self, fields: &Fields) {
        let set = |field: &mut Option<String>, key| {
            if let Some(value) = fields.get(key) {
                *field = Some(value.to_owned());
            }
        };
        set(&mut self.machine, "type");
        set(&mut self.memory_backend, "memory-backend");
        self.max_ram_below_4g = fields.get("max-ram-below-4g").and_then(|text| size(text, 0)).or(self.max_ram_below_4g);
    }

    fn object(&mut self, fields: &Fields) {
        let kind = match fields.get("qom-type") {
            Some("memory-backend-ram") => BackendKind::Ram,
            Some("memory-backend-memfd" | "memory-backend-memfd-private") => BackendKind::Memfd,
            Some("memory-backend-file" | "memory-backend-shm") => BackendKind::File,
            Some(guard @ ("sev-guest" | "sev-snp-guest" | "tdx-guest")) => {
                self.encrypted = Some(guard.to_owned());
                return;
            }
            _ => return,
        };
        let (Some(id), Some(size)) = (fields.get("id"), fields.get("size").and_then(|text| size(text, 0))) else {
            return;
        };
        self.backends.push(Backend {
            id: id.to_owned(),
            kind,
            size,
            path: fields.get("mem-path").map(str::to_owned),
            offset: fields.get("offset").and_then(|text| self::size(text, 0)).unwrap_or(0),
        });
    }

    fn device(&mut self, fields: &Fields) {
        let driver = fields.get("driver").unwrap_or_default();
        let address = match driver {
            "pc-dimm" | "nvdimm" => fields.get("addr"),
            _ if driver.starts_with("virtio-mem") || driver.starts_with("virtio-pmem") => fields.get("memaddr"),
            _ => return,
        };
        if let Some(memdev) = fields.get("memdev") {
            let gpa = address.and_then(|text| size(text, 0)).filter(|gpa| *gpa != 0);
            self.devices.push(MemoryDevice { memdev: memdev.to_owned(), gpa });
        }
    }

    /// The backends that make up the machine's RAM, end to end; one without a name of its own where none was given.
    #[must_use]
    pub fn ram_backends(&self) -> Vec<Backend> {
        let named: Vec<&String> =
            if self.cells.is_empty() { self.memory_backend.iter().collect() } else { self.cells.iter().collect() };
        let known: Vec<Backend> = named.iter().filter_map(|id| self.backend(id).cloned()).collect();
        if !known.is_empty() && known.len() == named.len() {
            return known;
        }
        let kind = if self.mem_path.is_some() { BackendKind::File } else { BackendKind::Ram };
        vec![Backend { id: "RAM".to_owned(), kind, size: self.ram, path: self.mem_path.clone(), offset: 0 }]
    }

    /// The backend called `id`.
    #[must_use]
    pub fn backend(&self, id: &str) -> Option<&Backend> {
        self.backends.iter().find(|backend| backend.id == id)
    }
}

/// The options whose values are read here.
const OPTIONS: &[&str] =
    &["name", "machine", "M", "m", "object", "numa", "device", "mem-path", "qmp", "qmp-pretty", "append"];

/// `key=value` pairs, in order; the last of a key counts.
pub(super) struct Fields(Vec<(String, String)>);

impl Fields {
    /// Reads `text`, whose first value may come without its key, `first`.
    pub(super) fn parse(text: &str, first: &str) -> Self {
        if text.starts_with('{')
            && let Ok(Value::Object(fields)) = serde_json::from_str(text)
        {
            let plain = |value: &Value| match value {
                Value::String(text) => text.clone(),
                Value::Bool(true) => "on".to_owned(),
                Value::Bool(false) => "off".to_owned(),
                other => other.to_string(),
            };
            return Self(fields.iter().map(|(key, value)| (key.clone(), plain(value))).collect());
        }
        let mut fields = Vec::new();
        for (index, item) in split(text).into_iter().enumerate() {
            match item.split_once('=') {
                Some((key, value)) => fields.push((key.to_owned(), value.to_owned())),
                None if index == 0 => fields.push((first.to_owned(), item)),
                // A switch: `server` for `server=on`.
                None => fields.push((item, "on".to_owned())),
            }
        }
        Self(fields)
    }

    pub(super) fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().rev().find(|(known, _)| known == key).map(|(_, value)| value.as_str())
    }
}

/// At single commas; a doubled one is a comma.
fn split(text: &str) -> Vec<String> {
    let mut items = vec![String::new()];
    let mut rest = text.chars().peekable();
    while let Some(next) = rest.next() {
        if next == ',' && rest.next_if_eq(&',').is_none() {
            items.push(String::new());
        } else if let Some(item) = items.last_mut() {
            item.push(next);
        }
    }
    items
}

/// A size as QEMU reads it: decimal or `0x`, a fraction, a suffix `B`, `K`, `M`, `G`, `T`; without one in units of
/// 2^`shift`.
pub(super) fn size(text: &str, shift: u32) -> Option<u64> {
    let (digits, shift) = match text.chars().next_back()?.to_ascii_uppercase() {
        // A `B` ends a hexadecimal number as well.
        'B' if !text.starts_with("0x") => (text.get(..text.len() - 1)?, 0),
        'K' => (text.get(..text.len() - 1)?, 10),
        'M' => (text.get(..text.len() - 1)?, 20),
        'G' => (text.get(..text.len() - 1)?, 30),
        'T' => (text.get(..text.len() - 1)?, 40),
        _ => (text, shift),
    };
    if let Some(digits) = digits.strip_prefix("0x") {
        return u64::from_str_radix(digits, 16).ok()?.checked_mul(1 << shift);
    }
    if !digits.starts_with(|first: char| first.is_ascii_digit()) {
        return None;
    }
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole = whole.parse::<u64>().ok()?.checked_mul(1 << shift)?;
    if fraction.is_empty() {
        return Some(whole);
    }
    // Nine digits are more than a size needs, and few enough for 128 bits.
    let fraction =
        fraction.get(..fraction.len().min(9)).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let part = fraction.parse::<u128>().ok()? << shift;
    let scale = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    whole.checked_add(u64::try_from(part / scale).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &[&str]) -> QemuLine {
        QemuLine::parse(&line.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn words_end_with_a_zero_byte() {
        assert_eq!(words(b"qemu\0-name\0a b\0"), ["qemu", "-name", "a b"]);
        assert_eq!(words(b"qemu\0\0"), ["qemu", ""]);
        assert_eq!(words(b""), [""]);
    }

    #[test]
    fn what_libvirt_writes() {
        let line = parse(&[
            "/usr/bin/qemu-system-x86_64",
            "-name",
            "guest=two cells,,really,debug-threads=on",
            "-machine",
            "pc-q35-7.2,usb=off,dump-guest-core=off",
            "-m",
            "size=2097152k,slots=16,maxmem=16777216k",
            "-object",
            r#"{"qom-type":"memory-backend-memfd","id":"ram-node0","share":true,"size":1073741824}"#,
            "-numa",
            "node,nodeid=0,cpus=0,memdev=ram-node0",
            "-object",
            r#"{"qom-type":"memory-backend-ram","id":"ram-node1","size":1073741824}"#,
            "-numa",
            "node,nodeid=1,cpus=1,memdev=ram-node1",
            "-object",
            r#"{"qom-type":"memory-backend-ram","id":"memdimm0","size":536870912}"#,
            "-device",
            r#"{"driver":"pc-dimm","node":0,"memdev":"memdimm0","id":"dimm0","slot":0,"addr":4294967296}"#,
        ]);
        assert_eq!(line.name.as_deref(), Some("two cells,really"));
        assert_eq!((line.machine.as_deref(), line.ram), (Some("pc-q35-7.2"), 2 << 30));
        assert_eq!((line.max_ram, line.slots), (Some(16 << 30), 16));
        assert_eq!(
            line.ram_backends().iter().map(|one| (one.kind, one.size)).collect::<Vec<_>>(),
            [(BackendKind::Memfd, 1 << 30), (BackendKind::Ram, 1 << 30)]
        );
        assert_eq!(line.devices, [MemoryDevice { memdev: "memdimm0".into(), gpa: Some(4 << 30) }]);
    }

    #[test]
    fn what_people_type() {
        let line = parse(&[
            "qemu",
            "-M",
            "pc",
            "-machine",
            "memory-backend=m,max-ram-below-4g=1G",
            "-m",
            "4096",
            "-name",
            "vm",
            "-object",
            "memory-backend-file,id=m,mem-path=/dev/shm/a,,b,size=4G,share=on,offset=0x1000000",
            "-append",
            "-m",
        ]);
        assert_eq!((line.name.as_deref(), line.ram, line.max_ram_below_4g), (Some("vm"), 4 << 30, Some(1 << 30)));
        let [ram] = &line.ram_backends()[..] else { panic!("{line:?}") };
        assert_eq!((ram.path.as_deref(), ram.offset, ram.size), (Some("/dev/shm/a,b"), 16 << 20, 4 << 30));
        let plain = parse(&["qemu-system-x86_64", "-mem-path", "/dev/hugepages"]);
        assert_eq!((plain.ram, plain.ram_backends()[0].kind), (128 << 20, BackendKind::File));
        assert_eq!(parse(&["qemu", "-object", "tdx-guest,id=t"]).encrypted.as_deref(), Some("tdx-guest"));
    }

    #[test]
    fn sizes_have_units() {
        for (text, bytes) in
            [("2", 2 << 20), ("2B", 2), ("1.5G", 3 << 29), ("0x10", 16 << 20), ("64k", 64 << 10), ("1T", 1 << 40)]
        {
            assert_eq!(size(text, 20), Some(bytes), "{text}");
        }
        for text in ["", "G", "-1", "1.x", "99999999T", "0xg", "é"] {
            assert_eq!(size(text, 20), None, "{text}");
        }
    }
}
