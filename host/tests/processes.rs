//! Guests by their processes, which this test plays: names that two have, and whatever stands between a user and a
//! process. Each obstacle is a real one, and is distinguished from the others.

use std::fs::{self, File, Permissions};
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use memmap2::{Advice, MmapMut};
use vgpu_perception::{Gpa, PhysRead as _};
use vgpu_perception_host::attach::{AttachErrorKind, GuestSpec, Outcome, attach, examine, running};

/// Set for a process that plays a VMM, or that looks at one as another user.
const ROLE: &str = "VGPU_TEST_ROLE";
/// QEMU's RAM where it is told no size.
const RAM: u64 = 128 << 20;
const NOBODY: u32 = 65534;
const STRANGER: u32 = 65533;

/// Runs the role that this process was started for, if any; the first line of every test.
fn role() {
    match std::env::var(ROLE) {
        Ok(role) if role == "vmm" => vmm(),
        Ok(word) => {
            println!("{}", look(&word));
        }
        Err(_) => return,
    }
    std::process::exit(0);
}

/// Plays a VMM until its input ends: RAM of its own, or in the file `ram` where it stands if there is one.
fn vmm() {
    let mut ram = match File::options().read(true).write(true).open("ram") {
        // SAFETY: the file is this test's own, and nobody shrinks it.
        Ok(file) => unsafe { MmapMut::map_mut(&file) }.unwrap(),
        Err(_) => MmapMut::map_anon(RAM as usize).unwrap(),
    };
    // A mapping of its own, which does not grow together with its neighbours.
    ram.advise(Advice::DontDump).unwrap();
    // Never written where somebody else wrote it.
    ram[1] = 1;
    println!("runs");
    let _ = std::io::stdin().read_to_end(&mut Vec::new());
}

/// What somebody sees who names a guest so: each step, and what the list says of it.
fn look(word: &str) -> String {
    let spec = match word.parse::<GuestSpec>() {
        Ok(spec) => spec,
        Err(error) => return format!("{:?}: {error}", error.kind()),
    };
    let (findings, attachment) = examine(&spec);
    let mut text = String::new();
    for one in &findings {
        let advice = one.advice.as_deref().unwrap_or_default();
        text.push_str(&format!("{} {:?}: {} => {advice}\n", one.step, one.outcome, one.seen));
    }
    assert_eq!(attachment.is_none(), findings.iter().any(|one| one.outcome == Outcome::Bad), "{text}");
    let pid = word.strip_prefix("pid:").and_then(|pid| pid.parse().ok());
    let listed = running().into_iter().find(|one| Some(one.pid) == pid);
    let why_not = listed.and_then(|one| one.obstacle).map_or_else(String::new, |error| error.to_string());
    let first = attachment.map(|attachment| {
        let mut byte = [0];
        attachment.ram.read(Gpa::new(0), &mut byte).unwrap();
        byte[0]
    });
    format!("{text}first byte: {first:?}\nlisted: {why_not}")
}

/// A folder that everybody may enter, with this program in it under QEMU's name: `open` for all to read, `secret` to be
/// run only, whose process its own user may not look into (`prctl(2)`, `PR_SET_DUMPABLE`).
struct Programs(PathBuf);

impl Programs {
    fn new(test: &str) -> Self {
        let dir = std::env::temp_dir().join(format!("vgpu-processes-{test}-{}", std::process::id()));
        for (folder, mode) in [("open", 0o755), ("secret", 0o711)] {
            let program = dir.join(folder).join("qemu-system-x86_64");
            fs::create_dir_all(dir.join(folder)).unwrap();
            // By another process: a descriptor that writes it here could be held, until its exec, by a child that
            // another test starts meanwhile, and a program that is written cannot be run.
            let copied = Command::new("cp").arg(std::env::current_exe().unwrap()).arg(&program).status().unwrap();
            assert!(copied.success());
            fs::set_permissions(dir.join(folder), Permissions::from_mode(0o755)).unwrap();
            fs::set_permissions(&program, Permissions::from_mode(mode)).unwrap();
        }
        fs::set_permissions(&dir, Permissions::from_mode(0o755)).unwrap();
        Self(dir)
    }

    /// Runs one of them as `user` and group, behind the words of another program that starts it.
    fn command(&self, folder: &str, before: &[&str], ids: Option<(u32, u32)>) -> Command {
        let program = self.0.join(folder).join("qemu-system-x86_64").display().to_string();
        let line: Vec<&str> = before.iter().copied().chain([program.as_str()]).collect();
        let mut command = Command::new(line[0]);
        command.args(&line[1..]).args(["a_name_that_two_have", "--exact", "--nocapture"]).current_dir(&self.0);
        if let Some((user, group)) = ids {
            command.uid(user).gid(group);
        }
        command
    }

    fn vmm(&self, name: &str, folder: &str, ids: Option<(u32, u32)>, before: &[&str]) -> Vmm {
        Vmm::start(self.command(folder, before, ids), name, &[])
    }

    /// What another process sees that names a guest so.
    fn seen_by(&self, word: &str, before: &[&str], ids: Option<(u32, u32)>) -> String {
        let output = self.command("open", before, ids).env(ROLE, word).output().unwrap();
        let text = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert!(output.status.success(), "{text}");
        text
    }
}

impl Drop for Programs {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A process that plays QEMU; ended when dropped.
struct Vmm {
    child: Child,
    name: String,
}

impl Vmm {
    /// Runs `command` with QEMU's options `more`. The test harness takes any value of `--skip`, and of a word without
    /// an option it makes a filter: both are among the words that are looked at.
    fn start(mut command: Command, name: &str, more: &[(&str, String)]) -> Self {
        command.args(["--skip", "-name", name]);
        for (option, value) in more {
            command.args(["--skip", option, value]);
        }
        let mut child = command.env(ROLE, "vmm").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(lines.any(|line| line.unwrap().contains("runs")), "{name} runs");
        Self { child, name: name.to_owned() }
    }

    /// Its number here, which is another than its own in a namespace.
    fn pid(&self) -> u32 {
        let listed = running().into_iter().find(|one| one.name.as_deref() == Some(&self.name));
        listed.unwrap_or_else(|| panic!("{} is not listed", self.name)).pid
    }
}

impl Drop for Vmm {
    fn drop(&mut self) {
        // Where the program that started it is between, the end of its input ends it.
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

fn own_name(what: &str) -> String {
    format!("vgpu-{what}-{}", std::process::id())
}

#[test]
fn a_name_that_two_have() {
    role();
    let programs = Programs::new("names");
    let start = |name: &str| programs.vmm(name, "open", None, &[]);
    let name = own_name("twins");
    let one = start(&name);
    assert_eq!(attach(&name.parse().unwrap()).unwrap().ram.bytes(), RAM, "a bare word");
    let other = start(&name);
    let error = attach(&format!("name:{name}").parse().unwrap()).unwrap_err();
    assert_eq!(error.kind(), AttachErrorKind::Usage);
    for pid in [one.child.id(), other.child.id()] {
        assert!(error.to_string().contains(&format!("pid:{pid}")), "{error}");
        assert_eq!(attach(&format!("pid:{pid}").parse().unwrap()).unwrap().ram.bytes(), RAM);
    }
    drop(one);
    // Another is called by this one's number: the word could be either.
    let left = other.child.id().to_string();
    let third = start(&left);
    let error = left.parse::<GuestSpec>().unwrap_err();
    assert_eq!(error.kind(), AttachErrorKind::Usage);
    let both = format!("pid:{left} or name:{left}");
    assert!(error.to_string().contains(&both) && error.to_string().contains("nothing was read"), "{error}");
    drop(third);
    // A file of that name lies where the user stands.
    fs::write(programs.0.join(&name), [1; 4096]).unwrap();
    let said = programs.seen_by(&name, &[], None);
    assert!(said.contains(&format!("ram:{name} or name:{name}")) && said.contains("nothing was read"), "{said}");
    drop(other);
    let gone = attach(&format!("pid:{left}").parse().unwrap()).unwrap_err();
    assert_eq!(gone.kind(), AttachErrorKind::NotFound, "{gone}");
}

#[test]
fn each_obstacle_is_named() {
    role();
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: processes of other users; only root can start them");
        return;
    }
    let programs = Programs::new("rights");
    let nobody = Some((NOBODY, NOBODY));
    let theirs = programs.vmm(&own_name("open"), "open", nobody, &[]);
    let secret = programs.vmm(&own_name("secret"), "secret", nobody, &[]);
    let apart = programs.vmm(&own_name("apart"), "open", None, &["unshare", "--mount", "--pid", "--fork"]);
    let check = |vmm: &Vmm, ids, before: &[&str], works: bool, texts: &[&str]| {
        let said = programs.seen_by(&format!("pid:{}", vmm.pid()), before, ids);
        assert_eq!(said.contains("attach Good"), works, "{said}");
        assert_eq!(said.ends_with("listed: \n"), works, "{said}");
        for text in texts {
            assert!(said.contains(text), "{text}: {said}");
        }
    };
    // Its own user, and root.
    check(&theirs, nobody, &[], true, &["rights Good", "read through the process"]);
    check(&theirs, None, &[], true, &["rights Good"]);
    check(&secret, None, &[], true, &["rights Good"]);
    let stranger = format!("it belongs to user {NOBODY}, this is user {STRANGER}; run as user {NOBODY}, or as root");
    check(&theirs, Some((STRANGER, STRANGER)), &[], false, &[&stranger, "sudo -u '#65534'"]);
    check(&theirs, Some((NOBODY, STRANGER)), &[], false, &["it runs with group 65534, this process with 65533"]);
    check(&secret, nobody, &[], false, &["(not dumpable); run as root", "setcap cap_sys_ptrace=ep"]);
    let weak = ["setpriv", "--bounding-set", "-sys_ptrace"];
    check(&theirs, None, &weak, false, &["this is root without the capability CAP_SYS_PTRACE", "SYS_PTRACE"]);
    // A monitor that this user may not connect to is distinguished from one that nobody serves, or that another client
    // holds.
    let socket = programs.0.join("monitor");
    let _listener = UnixListener::bind(&socket).unwrap();
    fs::set_permissions(&socket, Permissions::from_mode(0o600)).unwrap();
    let said = programs.seen_by(&format!("qmp:{}", socket.display()), &[], nobody);
    assert!(said.contains("attach Bad") && said.contains("this user may not connect to it: run as"), "{said}");
    let notices = ["namespace Notice: it has a mnt namespace", "namespace Notice: it has a pid namespace"];
    check(&apart, None, &[], true, &notices);
}

/// QEMU's options for RAM in a file.
fn in_file(path: &str) -> [(&'static str, String); 2] {
    let backend = format!("memory-backend-file,id=ram,size=128M,mem-path={path},share=on");
    [("-object", backend), ("-machine", "pc,memory-backend=ram".to_owned())]
}

/// Two guests whose RAM files have the same relative path: whoever stands in the folder of one reads the other where
/// that is asked for, and nothing that lies beside.
#[test]
fn a_file_of_the_same_name_beside() {
    role();
    let programs = Programs::new("beside");
    let start = |index: u8| {
        let folder = programs.0.join(format!("guest{index}"));
        fs::create_dir(&folder).unwrap();
        let file = File::create(folder.join("ram")).unwrap();
        file.set_len(RAM).unwrap();
        file.write_all_at(&[index], 0).unwrap();
        let mut command = programs.command("open", &[], None);
        command.current_dir(&folder);
        (Vmm::start(command, &own_name(&format!("beside{index}")), &in_file("ram")), folder)
    };
    let guests = [start(1), start(2)];
    for (index, (guest, _)) in (1..).zip(&guests) {
        for (_, stands) in &guests {
            for word in [format!("pid:{}", guest.pid()), guest.name.clone()] {
                let mut command = programs.command("open", &[], None);
                let output = command.env(ROLE, &word).current_dir(stands).output().unwrap();
                let said = String::from_utf8(output.stdout).unwrap();
                let own = said.contains(&format!("first byte: Some({index})"));
                assert!(own && said.contains("shared file") && said.contains(", mapped"), "{word}: {said}");
            }
        }
    }
}

/// In its mount namespace a guest has another file at the path of its command line than there is here.
#[test]
fn a_file_of_the_same_path_in_another_mount_namespace() {
    role();
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: another mount namespace; only root can make one");
        return;
    }
    let programs = Programs::new("mounts");
    let folder = programs.0.join("ram-files");
    fs::create_dir(&folder).unwrap();
    let path = folder.join("ram");
    let here = File::create(&path).unwrap();
    here.set_len(RAM).unwrap();
    here.write_all_at(&[1], 0).unwrap();
    // A file system of its own over the folder; the file in it begins with another byte.
    let script = "mount -t tmpfs none \"$PWD/ram-files\" && cd ram-files && printf '\\002' >ram && truncate -s 128M \
         ram \
                  && exec \"$0\" \"$@\"";
    let command = programs.command("open", &["unshare", "--mount", "sh", "-c", script], None);
    let guest = Vmm::start(command, &own_name("mounts"), &in_file(&path.display().to_string()));
    for word in [format!("pid:{}", guest.pid()), guest.name.clone()] {
        let said = programs.seen_by(&word, &[], None);
        assert!(said.contains("first byte: Some(2)") && said.contains(", mapped"), "{word}: {said}");
        assert!(said.contains("it has a mnt namespace of its own"), "{said}");
    }
    let said = programs.seen_by(&format!("ram:{}", path.display()), &[], None);
    assert!(said.contains("sharing Notice: no virtual machine"), "the file that is here is nobody's: {said}");
}
