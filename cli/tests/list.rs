//! `vgpu list` and what it leads to, for processes that only look like virtual machines: each says why it is none that
//! can be read.

use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, Stdio};

use serde_json::Value;

/// A process with QEMU's name and these options, and no memory of a guest; it ends with its input.
struct Played {
    child: Child,
}

impl Played {
    fn start(options: &[&str]) -> Self {
        let mut command = Command::new("/bin/sh");
        command.arg0("qemu-system-x86_64").args(["-c", "echo; read nothing"]).args(options);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        // It is what it looks like once it has said something.
        let mut said = [0];
        std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut said).unwrap();
        Self { child }
    }
}

impl Drop for Played {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Exit code, standard output and standard error.
fn vgpu(args: &[&str]) -> (i32, String, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_vgpu")).args(args).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn what_runs_is_listed_with_its_name_its_size_and_why_it_cannot_be_read() {
    let name = format!("vgpu-list-{}", std::process::id());
    let qmp = format!("unix:/nowhere/{name},server=on,wait=off");
    let played = Played::start(&["-name", &format!("guest={name},debug-threads=on"), "-m", "3G", "-qmp", &qmp]);
    let (code, text, errors) = vgpu(&["list", "--json"]);
    assert_eq!(code, 0, "{errors}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let one = report["guests"].as_array().unwrap().iter().find(|one| one["name"] == name.as_str()).unwrap();
    assert_eq!((&one["pid"], &one["vmm"]), (&Value::from(played.child.id()), &Value::from("QEMU")));
    assert_eq!(one["ram_bytes"], 3_u64 << 30);
    assert_eq!((&one["readable"], &one["monitors"][0]), (&Value::Bool(false), &Value::from(qmp)));
    assert!(one["why_not"].as_str().unwrap().contains("no mapping of the process fits"), "{one:#}");
    let (_, text, _) = vgpu(&["list"]);
    let line = text.lines().find(|line| line.contains(&name)).unwrap();
    assert!(line.contains("3 GiB") && line.contains("not readable: no mapping"), "{line}");

    // However it is named: the reason, and the exit code of a guest that cannot be used.
    let pid = played.child.id().to_string();
    for args in [vec!["find", &name], vec!["sample", "--pid", &pid], vec!["status", &pid], vec!["ps", "--pid", &pid]] {
        let (code, _, errors) = vgpu(&args);
        assert!(code == 3 && errors.contains("no mapping of the process fits"), "{args:?}: {code} {errors}");
    }
    let (code, text, _) = vgpu(&["doctor", &name, "--json"]);
    let report: Value = serde_json::from_str(&text).unwrap();
    let bad = report["steps"].as_array().unwrap().iter().find(|step| step["outcome"] == "bad").unwrap();
    assert!(code != 0 && report["works"] == false && bad["step"] == "memory", "{report:#}");
}

#[test]
fn an_encrypted_guest_is_named() {
    let name = format!("vgpu-sev-{}", std::process::id());
    let sev = "sev-snp-guest,id=sev0,cbitpos=51,reduced-phys-bits=1";
    let _played = Played::start(&["-name", &name, "-m", "1G", "-object", sev]);
    let (code, _, errors) = vgpu(&["find", &format!("name:{name}")]);
    assert!(code == 3 && errors.contains("is encrypted (sev-snp-guest)"), "{code} {errors}");
    let (_, text, _) = vgpu(&["doctor", &name]);
    assert!(text.contains("BAD   encryption") && text.contains("SEV or TDX"), "{text}");
}

#[test]
fn a_process_that_is_no_virtual_machine() {
    let pid = std::process::id().to_string();
    let (code, _, errors) = vgpu(&["find", "--pid", &pid]);
    assert!(code == 3 && errors.contains("is no virtual machine that is known here"), "{errors}");
    let (code, _, errors) = vgpu(&["find", "pid:4294967294"]);
    assert!(code == 3 && errors.contains("there is no process") && errors.contains("vgpu list"), "{errors}");
}
