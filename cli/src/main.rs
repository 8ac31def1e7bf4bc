//! `vgpu`: the library on the command line.

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

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use crate::args::{Cli, Command};
use crate::failure::Failure;
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
    match report {
        Err(failure) => fail(&cli, &failure),
        Ok(report) => {
            let text = if cli.json { format!("{:#}", report.json) } else { report.text };
            // A reader that went away (`| head`) is no failure of ours.
            if !text.is_empty() {
                let _ = writeln!(std::io::stdout(), "{text}");
            }
            if let Some(note) = &report.note {
                eprintln!("vgpu: {note}");
            }
            match report.nothing {
                None => ExitCode::SUCCESS,
                Some(why) => {
                    eprintln!("vgpu: {why}");
                    ExitCode::from(1)
                }
            }
        }
    }
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
        let _ = writeln!(std::io::stdout(), "{:#}", json!({ "error": what, "exit": error.exit_code() }));
    }
    let _ = error.print();
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2))
}

fn fail(cli: &Cli, failure: &Failure) -> ExitCode {
    if cli.json {
        let _ = writeln!(std::io::stdout(), "{:#}", json!({ "error": failure.to_string(), "exit": failure.code() }));
    }
    eprintln!("vgpu: {failure}");
    ExitCode::from(failure.code())
}
