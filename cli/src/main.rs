//! `vgpu`: the library on the command line.
//!
//! ```sh
//! vgpu demo                                  # the tour, on a built-in guest
//! vgpu list                                  # the virtual machines of this host
//! vgpu sample win11 -o frame.png             # a frame of one of them
//! vgpu stream win11 | ffmpeg -i - out.mkv    # a video
//! ```
//!
//! `vgpu help` names every command; the words used there are explained in the documentation of `vgpu-perception`.

mod args;
mod attach;
mod blocks;
mod commands;
mod demo;
mod doctor;
mod failure;
mod frames;
mod list;
mod look;
mod manual;
mod numbers;
mod output;
mod patience;
mod progress;
mod ps;
#[cfg(feature = "serve")]
mod serve;
mod show;
mod stop;
mod stream;
mod verbose;
mod watch;
mod which;

use std::process::ExitCode;

use clap::Parser;
use serde_json::{Value, json};

use crate::args::{Cli, Command};
use crate::commands::Report;
use crate::failure::{Failure, NOTHING};
use crate::output::{Target, print};
use crate::patience::patiently;

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => return misused(&error),
    };
    if cli.verbose {
        verbose::enable();
    }
    let report = match &cli.command {
        Command::Demo(args) => demo::demo(args, cli.json),
        Command::List => Ok(list::list()),
        Command::Doctor(args) => doctor::doctor(args),
        Command::Ps(args) => ps::ps(args),
        Command::Find(args) => patiently(args.wait_for, || commands::find(args)),
        Command::Sample(args) => patiently(args.find.wait_for, || commands::sample(args, cli.json)),
        Command::Stream(args) => stream::stream(args, cli.json),
        Command::Watch(args) => return finish(&cli, watch::watch(args)),
        #[cfg(feature = "serve")]
        Command::Serve(args) => return finish(&cli, serve::serve(args, cli.json)),
        Command::Status(args) => patiently(args.find.wait_for, || commands::status(args)),
        Command::DemoProducer(args) => return finish(&cli, demo::produce(args)),
        Command::Completions(args) => return finish(&cli, manual::completions(args)),
        Command::ManualPages(args) => return finish(&cli, manual::pages(args)),
    };
    match report.and_then(|report| conclude(&cli, report)) {
        Err(failure) => fail(&cli, &failure),
        Ok(code) => code,
    }
}

/// Prints a report. Where it is that nothing is there, its JSON says so too.
fn conclude(cli: &Cli, mut report: Report) -> Result<ExitCode, Failure> {
    if let (Some(why), Value::Object(fields)) = (&report.nothing, &mut report.json) {
        fields.insert("error".into(), json!(why));
        fields.insert("exit".into(), json!(NOTHING));
    }
    let text = if cli.json { format!("{:#}", report.json) } else { report.text };
    if !text.is_empty() {
        print(&text)?;
    }
    if let Some(note) = &report.note {
        eprintln!("vgpu: {note}");
    }
    Ok(match report.nothing {
        None => ExitCode::SUCCESS,
        Some(why) => {
            eprintln!("vgpu: {why}");
            ExitCode::from(NOTHING)
        }
    })
}

/// The end of a command that reports nothing.
fn finish(cli: &Cli, result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => fail(cli, &failure),
    }
}

/// What cannot be understood, as any other error: in JSON too where that was asked for. Help and version are no errors.
fn misused(error: &clap::Error) -> ExitCode {
    if error.use_stderr() && std::env::args_os().any(|argument| argument == "--json") {
        let text = error.to_string();
        // Up to the usage, in one line.
        let what = text.strip_prefix("error: ").unwrap_or(&text);
        let what = what.split("\n\n").next().unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ");
        // The exit code says more than an output that cannot be written.
        let _ = print(&format!("{:#}", json!({ "error": what, "exit": error.exit_code() })));
    }
    match error.print() {
        Err(failed) if !error.use_stderr() => {
            let failure = Target::Stdout.failed(&failed);
            eprintln!("vgpu: {failure}");
            ExitCode::from(failure.code())
        }
        _ => ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2)),
    }
}

fn fail(cli: &Cli, failure: &Failure) -> ExitCode {
    if cli.json {
        // Where this fails too, the error is on standard error and in the exit code.
        let _ = print(&format!("{:#}", json!({ "error": failure.to_string(), "exit": failure.code() })));
    }
    eprintln!("vgpu: {failure}");
    ExitCode::from(failure.code())
}
