//! `ps`: the guest's processes, and how each fact about them was proven.

use core::fmt::Write as _;
use core::ops::ControlFlow;
use core::time::Duration;
use std::time::Instant;

use serde_json::{Value, json};
use vgpu_perception::process::guest::GuestKernel;
use vgpu_perception::process::nt::{ListStats, NtKernel, NtProcess, ProcessState, RootBy};
use vgpu_perception::{Budget, Process, ProcessSource, Step};
use vgpu_perception_host::{FoundKernel, Ram};

use crate::args;
use crate::attach::attach;
use crate::commands::Report;
use crate::failure::Failure;
use crate::look::message;
use crate::progress::Progress;
use crate::show::{hex, kind, levels};
use crate::verbose;

/// Steps of work between two looks at the clock.
const BUDGET: u64 = 1 << 18;

pub(crate) fn ps(args: &args::Ps) -> Result<Report, Failure> {
    let guest = attach(&args.guest)?;
    let started = Instant::now();
    let bar = Progress::start("looking for the kernel");
    let found = guest.kernel_with(|progress| {
        bar.say(|| message(&progress));
        ControlFlow::Continue(())
    });
    drop(bar);
    let found = found?;
    let took = started.elapsed();
    match &found.kernel {
        GuestKernel::Nt(kernel) => windows(&found, kernel, took, args.all),
        GuestKernel::Roots(_) => roots(&found, took),
    }
}

fn windows(found: &FoundKernel<Ram>, kernel: &NtKernel, took: Duration, all: bool) -> Result<Report, Failure> {
    let mut source = kernel.processes();
    let mut listed = Vec::new();
    let bar = Progress::start("listing processes");
    loop {
        match source.step(&found.memory, &mut Budget::new(BUDGET))? {
            Step::Found(process) => listed.push(process),
            Step::Pending => {}
            Step::Done => break,
        }
        bar.say(|| format!("{} processes", listed.len()));
    }
    drop(bar);
    let live = |one: &NtProcess| one.state == ProcessState::Alive && one.root != RootBy::Nothing;
    listed.retain(|one| all || live(one));
    listed.sort_by_key(|one| one.process.pid);
    let stats = source.stats();
    let json = json!({
        "processes": listed.iter().map(process).collect::<Vec<_>>(),
        "kernel": described(kernel),
        "list": {
            "alive": stats.alive, "exited": stats.exited, "lost": stats.lost, "strange": stats.strange,
            "broken": stats.broken,
        },
        "milliseconds": took.as_secs_f64() * 1000.0,
    });
    let hidden = if all { 0 } else { stats.exited + stats.lost };
    let mut text = format!(
        "{} processes alive, {} exited, {} with an unknown address space{}; {}\n{}",
        stats.alive,
        stats.exited,
        stats.lost,
        if hidden > 0 { " (--all shows them)" } else { "" },
        kind(&found.kernel),
        table(&listed)
    );
    if verbose::is_enabled() {
        text.push_str(&proofs(kernel, stats));
    }
    text.truncate(text.trim_end().len());
    Ok(Report { json, text, nothing: None, note: None })
}

fn process(one: &NtProcess) -> Value {
    let process = &one.process;
    let mut json = plain(process);
    if let Value::Object(fields) = &mut json {
        fields.insert("state".into(), json!(state(one.state)));
        fields.insert("cr3_by".into(), json!(root_by(one.root)));
        if one.root == RootBy::Nothing {
            fields.insert("cr3".into(), Value::Null);
        }
    }
    json
}

fn plain<R>(process: &Process<R>) -> Value {
    json!({
        "pid": process.pid,
        "name": process.name.map(|name| name.to_string()),
        "cr3": hex(process.space.root.get()),
        "user_cr3": process.user_root.map(|root| hex(root.get())),
        "eprocess": process.eprocess.map(|at| hex(at.get())),
        "peb": process.peb.map(|at| hex(at.get())),
        "ppid": process.ppid,
    })
}

const fn state(state: ProcessState) -> &'static str {
    match state {
        ProcessState::Alive => "alive",
        ProcessState::Exited => "exited",
    }
}

const fn root_by(by: RootBy) -> &'static str {
    match by {
        RootBy::Field => "DirectoryTableBase",
        RootBy::UserField => "UserDirectoryTableBase",
        RootBy::Search => "search",
        RootBy::Nothing => "nothing",
    }
}

fn described(kernel: &NtKernel) -> Value {
    let fields: Vec<_> = kernel
        .layout
        .fields()
        .iter()
        .map(|(name, field)| {
            json!({
                "field": name.to_string(),
                "offset": field.map(|field| hex(field.offset.into())),
                "witnesses": field.map(|field| field.witnesses),
                "rule": name.rule(),
            })
        })
        .collect();
    json!({
        "system": "windows",
        "version": kernel.version.map(|version| version.to_string()),
        "cr3": hex(kernel.root.get()),
        "levels": levels(kernel.mode),
        "found_by": kernel.origin.to_string(),
        "found_cr3": hex(kernel.found.get()),
        "image": hex(kernel.image.base.get()),
        "image_bytes": kernel.image.bytes,
        "eprocess": hex(kernel.system.get()),
        "layout": fields,
    })
}

/// A line for each process.
fn table(listed: &[NtProcess]) -> String {
    let mut text = format!("{:>7} {:>7}  {:14} {:18} {:14} {}\n", "PID", "PPID", "CR3", "EPROCESS", "PEB", "NAME");
    for one in listed {
        let process = &one.process;
        let number = |number: Option<u32>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let address = |at: Option<u64>| at.map_or_else(|| "-".to_owned(), |at| format!("{at:#x}"));
        let root = (one.root != RootBy::Nothing).then(|| process.space.root.get());
        let name = process.name.map_or_else(|| "-".to_owned(), |name| name.to_string());
        let remark = match (one.state, one.root) {
            (ProcessState::Exited, _) => "  (exited)",
            (_, RootBy::Field) => "",
            (_, RootBy::UserField) => "  (CR3 of user mode: DirectoryTableBase names no table)",
            (_, RootBy::Search) => "  (CR3 found in RAM: DirectoryTableBase names no table)",
            (_, RootBy::Nothing) => "  (DirectoryTableBase names no table)",
        };
        let _ = writeln!(
            text,
            "{:>7} {:>7}  {:14} {:18} {:14} {name}{remark}",
            number(process.pid),
            number(process.ppid),
            address(root),
            address(process.eprocess.map(|at| at.get())),
            address(process.peb.map(|at| at.get())),
        );
    }
    text
}

/// Where the kernel is, and by which rule each field of its objects was found.
fn proofs(kernel: &NtKernel, stats: ListStats) -> String {
    let mut text = String::new();
    if stats.broken {
        text.push_str("\nthe list of processes is broken and was walked from both ends");
    }
    let _ = writeln!(text, "\nkernel at {}, CR3 {}, found by {}", kernel.image.base, kernel.root, kernel.origin);
    for (name, field) in kernel.layout.fields() {
        let _ = match field {
            Some(field) => writeln!(
                text,
                "  {:28} +{:#05x}  {} ({} {})",
                name.to_string(),
                field.offset,
                name.rule(),
                field.witnesses,
                if field.witnesses == 1 { "process" } else { "processes" }
            ),
            None => writeln!(text, "  {:28} -       not proven: {}", name.to_string(), name.rule()),
        };
    }
    text
}

/// A guest that is not Windows: address spaces have no names.
fn roots(found: &FoundKernel<Ram>, took: Duration) -> Result<Report, Failure> {
    let mut source = found.kernel.processes();
    let mut listed = Vec::new();
    loop {
        match source.next_process(&found.memory, &mut Budget::new(BUDGET))? {
            Step::Found(process) => listed.push(process),
            Step::Pending => {}
            Step::Done => break,
        }
    }
    let mut text = format!("{} address spaces; {}\n", listed.len(), kind(&found.kernel));
    let _ = write!(text, "{:14} CR3 OF USER MODE", "CR3");
    for process in &listed {
        let user = process.user_root.map_or_else(|| "-".to_owned(), |root| root.to_string());
        let _ = write!(text, "\n{:14} {user}", process.space.root.to_string());
    }
    let space = found.kernel.space();
    if verbose::is_enabled() {
        let _ = write!(text, "\n\nfound by the kernel (upper) half that they share; {} levels", levels(space.mode));
        if let Some(error) = found.not_windows {
            let _ = write!(text, "\nnot taken for Windows: {error}");
        }
    }
    let json = json!({
        "processes": listed.iter().map(plain).collect::<Vec<_>>(),
        "kernel": {
            "system": "roots",
            "cr3": hex(space.root.get()),
            "levels": levels(space.mode),
            "not_windows": found.not_windows.map(|error| error.to_string()),
        },
        "milliseconds": took.as_secs_f64() * 1000.0,
    });
    Ok(Report { json, text, nothing: None, note: None })
}
