//! A running guest: QEMU, its monitor, and the wire to the first process inside.

use core::sync::atomic::{AtomicU32, Ordering};
use core::time::Duration;
use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use vgpu_perception::{AddressSpace, Cr3, PagingMode};
use vgpu_perception_mapped::{self as mapped, GuestRam, MachineOptions, RamFile, RamOptions, SegmentMap};

use crate::gdb::Gdb;
use crate::qmp::Qmp;
use crate::{Assets, Result};

/// Which machine QEMU makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Machine {
    /// `pc`.
    Pc,
    /// `q35`.
    Q35,
}

/// What holds a guest's RAM.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Memory {
    /// A file, `ram` in the guest's directory.
    File,
    /// The same, named from QEMU's working directory.
    Relative,
    /// A file in a directory, unlinked as soon as it was made.
    Unlinked,
    /// A memfd.
    Memfd,
    /// Memory of QEMU's process: what `-m` alone gives.
    Private,
    /// A file that QEMU does not share with it (`share=off`).
    ShareOff,
    /// Two cells, a memfd and a file, of half the RAM each.
    TwoCells,
    /// Two cells of memory of QEMU's process.
    PrivateCells,
    /// Huge pages of a directory, unlinked.
    Huge,
    /// The same, all of them allocated from the start.
    HugeAllocated,
}

/// What to boot.
#[derive(Clone, Debug)]
pub struct Options {
    /// Which machine.
    pub machine: Machine,
    /// Its RAM in MiB.
    pub ram_mib: u64,
    /// QEMU's `-cpu`.
    pub cpu: &'static str,
    /// Processors.
    pub processors: u32,
    /// More for the kernel's command line.
    pub append: &'static str,
    /// What holds its RAM.
    pub memory: Memory,
    /// More words for QEMU, which works in the guest's directory.
    pub more: &'static [&'static str],
}

impl Options {
    /// A `pc` with 1 GiB: all RAM below the hole.
    pub const PC: Self = Self { machine: Machine::Pc, ram_mib: 1024, ..Self::Q35 };
    /// A `q35` with 3 GiB: RAM on both sides of the hole.
    pub const Q35: Self = Self {
        machine: Machine::Q35,
        ram_mib: 3072,
        cpu: "qemu64",
        processors: 1,
        append: "",
        memory: Memory::File,
        more: &[],
    };
}

/// How long a boot may take. Three seconds is usual; the limit only ends a hung test.
const BOOT: Duration = Duration::from_secs(180);
/// How long an answer may take, likewise.
const ANSWER: Duration = Duration::from_secs(60);

/// What a producer says when it starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ready {
    /// Its number.
    pub pid: u32,
    /// Where its region is.
    pub base: u64,
}

impl Ready {
    /// Reads it out of a line.
    #[must_use]
    pub fn parse(line: &str) -> Option<Self> {
        let field = |name: &str| line.split_whitespace().find_map(|word| word.strip_prefix(name));
        let base = u64::from_str_radix(field("base=0x")?, 16).ok()?;
        Some(Self { pid: field("pid=")?.parse().ok()?, base })
    }

    /// Reads it out of what a guest has said so far: of the last line, half may still be on its way.
    #[must_use]
    pub fn find(text: &str) -> Option<Self> {
        text.split_inclusive('\n').filter(|line| line.ends_with('\n')).find_map(Self::parse)
    }
}

/// A guest. Ended when dropped, and by the kernel when the thread that booted it ends.
#[derive(Debug)]
pub struct Guest {
    options: Options,
    dir: PathBuf,
    qemu: Child,
    qmp: Qmp,
    wire: UnixStream,
    lines: Receiver<String>,
}

impl Guest {
    /// Boots a guest and waits until its first process listens.
    ///
    /// # Errors
    /// What is missing, with the command that installs it; what QEMU says; a guest that does not come up.
    pub fn boot(options: Options) -> Result<Self> {
        let assets = Assets::find()?;
        let dir = fresh_dir()?;
        let mut qemu = start_qemu(&options, &assets, &dir)?;
        let (qmp, wire) = match connect(&mut qemu, &dir) {
            Ok(pair) => pair,
            Err(error) => {
                end(&mut qemu, &dir);
                return Err(error);
            }
        };
        let (sender, lines) = channel();
        let reader = BufReader::new(wire.try_clone()?);
        std::thread::spawn(move || {
            for line in reader.split(b'\n').map_while(core::result::Result::ok) {
                if sender.send(String::from_utf8_lossy(&line).trim().to_owned()).is_err() {
                    return;
                }
            }
        });
        let mut guest = Self { options, dir, qemu, qmp, wire, lines };
        guest.wait_until("up", BOOT)?;
        Ok(guest)
    }

    /// What was booted.
    #[must_use]
    pub const fn options(&self) -> &Options {
        &self.options
    }

    /// The number of QEMU's process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.qemu.id()
    }

    /// What QEMU calls it.
    #[must_use]
    pub fn name(&self) -> String {
        name_of(&self.dir)
    }

    /// Its directory, which QEMU works in.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The file that holds its RAM.
    #[must_use]
    pub fn ram_path(&self) -> PathBuf {
        self.dir.join("ram")
    }

    /// The monitor's second socket, for programs that want to ask QEMU themselves.
    #[must_use]
    pub fn qmp_path(&self) -> PathBuf {
        self.dir.join("qmp2")
    }

    /// The monitor's TCP port on the loopback.
    ///
    /// # Errors
    /// What the monitor says.
    pub fn tcp_port(&mut self) -> Result<u16> {
        let known = self.qmp.human("info chardev")?;
        // `tcp: filename=disconnected:tcp:127.0.0.1:40123,server=on`
        let line = known.lines().find_map(|line| line.strip_prefix("tcp: "));
        let port = line.and_then(|line| line.split_once("127.0.0.1:")?.1.split(',').next()?.parse().ok());
        port.ok_or_else(|| format!("QEMU names no port of its monitor: {known}").into())
    }

    /// What the kernel printed.
    #[must_use]
    pub fn console(&self) -> String {
        fs::read(self.dir.join("console")).map_or_else(|_| String::new(), |text| String::from_utf8_lossy(&text).into())
    }

    /// Where its RAM is in the file, by the machine's rules.
    ///
    /// # Errors
    /// None for the options above.
    pub fn segments(&self) -> Result<SegmentMap> {
        let machine = match self.options.machine {
            Machine::Pc => mapped::Machine::Pc,
            Machine::Q35 => mapped::Machine::Q35,
        };
        Ok(machine.map(&[self.options.ram_mib << 20], MachineOptions::default())?)
    }

    /// Its RAM, mapped.
    ///
    /// # Errors
    /// What opening the file says.
    pub fn ram(&self) -> Result<GuestRam> {
        Ok(GuestRam::new(vec![RamFile::open(self.ram_path())?], self.segments()?, RamOptions::new())?)
    }

    /// The monitor.
    pub const fn qmp(&mut self) -> &mut Qmp {
        &mut self.qmp
    }

    /// The debugger port. The guest has to stand still: `stop` it first.
    ///
    /// # Errors
    /// What the socket says.
    pub fn debugger(&self) -> Result<Gdb> {
        Gdb::connect(&self.dir.join("gdb"))
    }

    /// The address space that the first processor is in right now: any process's, or one root of a pair.
    ///
    /// # Errors
    /// What the monitor says.
    pub fn space(&mut self) -> Result<AddressSpace> {
        let cr3 = Cr3::new(self.qmp.register("CR3")?);
        let mode = PagingMode::from_cr4(self.qmp.register("CR4")?);
        Ok(AddressSpace::new(cr3).with_mode(mode))
    }

    /// Sends a command to the first process.
    ///
    /// # Errors
    /// What the wire says.
    pub fn send(&mut self, command: &str) -> Result<()> {
        writeln!(self.wire, "{command}")?;
        Ok(())
    }

    /// Waits for a line that starts so, and returns it whole.
    ///
    /// # Errors
    /// Where it does not come.
    pub fn wait_for(&mut self, start: &str) -> Result<String> {
        self.wait_until(start, ANSWER)
    }

    fn wait_until(&mut self, start: &str, limit: Duration) -> Result<String> {
        let deadline = Instant::now() + limit;
        let mut others = Vec::new();
        loop {
            match self.lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(line) if line.starts_with(start) => return Ok(line),
                Ok(line) => others.push(line),
                Err(why) => {
                    let why = match why {
                        RecvTimeoutError::Timeout => format!("for {} s", limit.as_secs()),
                        RecvTimeoutError::Disconnected => "and QEMU has ended".to_owned(),
                    };
                    let console = self.console();
                    let tail = console.lines().rev().take(20).collect::<Vec<_>>();
                    let tail = tail.into_iter().rev().collect::<Vec<_>>().join("\n");
                    return Err(format!("no line `{start}` {why}; came: {others:?}; console:\n{tail}").into());
                }
            }
        }
    }

    /// Starts a producer and waits until it has published its first frame.
    ///
    /// # Errors
    /// Where it does not.
    pub fn start_producer(&mut self, arguments: &str) -> Result<Ready> {
        self.send(&format!("start {arguments}"))?;
        let line = self.wait_for("ready ")?;
        let ready = Ready::parse(&line).ok_or_else(|| format!("`{line}` says no number and no base"))?;
        Ok(ready)
    }

    /// Ends the producer as a crash would.
    ///
    /// # Errors
    /// Where the guest does not answer.
    pub fn kill_producer(&mut self) -> Result<()> {
        self.send("kill")?;
        self.wait_for("killed ").map(drop)
    }

    /// Reboots from inside and waits until the first process listens again.
    ///
    /// # Errors
    /// Where it does not come up.
    pub fn reboot(&mut self) -> Result<()> {
        self.send("reboot")?;
        self.wait_until("up", BOOT).map(drop)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        end(&mut self.qemu, &self.dir);
    }
}

fn end(qemu: &mut Child, dir: &Path) {
    let _ = qemu.kill();
    let _ = qemu.wait();
    let _ = fs::remove_dir_all(dir);
}

/// A directory of this guest's own, in memory where there is such a file system.
fn fresh_dir() -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    let shm = Path::new("/dev/shm");
    let parent = if shm.is_dir() { shm.to_owned() } else { std::env::temp_dir() };
    remove_left_over(&parent);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let dir = parent.join(format!("vgpu-guest-{}-{count}", std::process::id()));
    fs::create_dir(&dir)?;
    Ok(dir)
}

/// Removes the directories of programs that were killed before they could.
fn remove_left_over(parent: &Path) {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let owner =
            name.to_str().and_then(|name| name.strip_prefix("vgpu-guest-")?.split_once('-')?.0.parse::<u32>().ok());
        if let Some(owner) = owner
            && !Path::new(&format!("/proc/{owner}")).exists()
        {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

fn start_qemu(options: &Options, assets: &Assets, dir: &Path) -> Result<Child> {
    let machine = match options.machine {
        Machine::Pc => "pc",
        Machine::Q35 => "q35",
    };
    let at = |name: &str| dir.join(name).display().to_string();
    // `setpriv`: the kernel ends QEMU when this program ends, however it ends.
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "qemu-system-x86_64", "-nodefaults", "-display", "none", "-accel", "tcg"]);
    command.args(["-machine", machine, "-cpu", options.cpu, "-name", &format!("guest={}", name_of(dir))]);
    command.args(["-m", &format!("{}M,slots=4,maxmem=8G", options.ram_mib)]).args(memory(options, &at("ram")));
    command.args(options.more);
    command.current_dir(dir);
    command.args(["-smp", &options.processors.to_string()]);
    command.arg("-kernel").arg(&assets.kernel).arg("-initrd").arg(&assets.initramfs);
    // An emulated processor that hardly runs, on a busy machine, fails the kernel's test of its timer.
    command.args(["-append", &format!("console=ttyS0 quiet panic=-1 no_timer_check {}", options.append)]);
    command.args(["-serial", &format!("file:{}", at("console"))]);
    command.args([
        "-chardev",
        &format!("socket,id=wire,path={},server=on,wait=off", at("wire")),
        "-serial",
        "chardev:wire",
    ]);
    command.args(["-chardev", &format!("socket,id=gdb,path={},server=on,wait=off", at("gdb")), "-gdb", "chardev:gdb"]);
    for monitor in ["qmp", "qmp2"] {
        command.args(["-qmp", &format!("unix:{},server=on,wait=off", at(monitor))]);
    }
    // The kernel chooses the port.
    command.args(["-chardev", "socket,id=tcp,host=127.0.0.1,port=0,server=on,wait=off", "-mon", "tcp,mode=control"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(fs::File::create(dir.join("qemu-errors"))?);
    command
        .spawn()
        .map_err(|error| format!("setpriv and qemu-system-x86_64 cannot be run: {error}. Run .ci/guest/setup").into())
}

fn name_of(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// QEMU's options for what holds the RAM.
fn memory(options: &Options, file: &str) -> Vec<String> {
    let size = options.ram_mib;
    let one = |kind: &str| {
        let backend = format!("memory-backend-{kind},id=ram,size={size}M");
        vec!["-object".to_owned(), backend, "-machine".to_owned(), "memory-backend=ram".to_owned()]
    };
    let two = |kinds: [String; 2]| {
        let cell = |(index, kind): (usize, &String)| {
            let backend = format!("memory-backend-{kind},id=cell{index},size={}M", size / 2);
            ["-object".to_owned(), backend, "-numa".to_owned(), format!("node,memdev=cell{index}")]
        };
        kinds.iter().enumerate().flat_map(cell).collect()
    };
    match options.memory {
        Memory::File => one(&format!("file,mem-path={file},share=on")),
        Memory::Relative => one("file,mem-path=ram,share=on"),
        Memory::Unlinked => one("file,mem-path=/dev/shm,share=on"),
        Memory::Memfd => one("memfd,share=on"),
        Memory::Private => Vec::new(),
        Memory::ShareOff => one(&format!("file,mem-path={file},share=off")),
        Memory::TwoCells => two(["memfd,share=on".to_owned(), format!("file,mem-path={file},share=on")]),
        Memory::PrivateCells => two(["ram".to_owned(), "ram".to_owned()]),
        Memory::Huge => one(&format!("file,mem-path={HUGE},share=on,reserve=off")),
        Memory::HugeAllocated => one(&format!("file,mem-path={HUGE},share=on,prealloc=on")),
    }
}

/// Where huge pages are mounted.
pub const HUGE: &str = "/dev/hugepages";

/// Connects as soon as QEMU listens.
fn connect(qemu: &mut Child, dir: &Path) -> Result<(Qmp, UnixStream)> {
    let deadline = Instant::now() + ANSWER;
    loop {
        if let Ok(wire) = UnixStream::connect(dir.join("wire"))
            && dir.join("qmp").exists()
            && dir.join("qmp2").exists()
        {
            return Ok((Qmp::connect(&dir.join("qmp"))?, wire));
        }
        if let Some(status) = qemu.try_wait()? {
            let told = fs::read_to_string(dir.join("qemu-errors")).unwrap_or_default();
            return Err(format!("QEMU did not start ({status}): {told}. Run .ci/guest/setup").into());
        }
        if Instant::now() > deadline {
            return Err("QEMU does not open its sockets".into());
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_line_says_number_and_base() {
        let ready = Ready::parse("ready pid=77 base=0x7f12a0000000 run_epoch=1 width=640 height=360");
        assert_eq!(ready, Some(Ready { pid: 77, base: 0x7f12_a000_0000 }));
        assert_eq!(Ready::parse("ready pid=77"), None);
        assert_eq!(Ready::find("up\nready pid=77 base=0x7f12a"), None, "half a line says a wrong base");
        assert_eq!(Ready::find("up\nready pid=77 base=0x7f12a0000000\n"), ready);
    }
}
