//! `vgpu`: the library on the command line.

mod args;
mod attach;
mod commands;
mod demo;
mod failure;
mod frames;
mod kernel;
mod progress;
mod ps;
mod qmp;
mod search;
mod show;

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use serde_json::json;

use crate::args::{Cli, Command};
use crate::failure::Failure;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let report = match &cli.command {
        Command::Demo(args) => demo::demo(args),
        Command::Ps(args) => ps::ps(args),
        Command::Find(args) => commands::find(args),
        Command::Sample(args) => commands::sample(args),
        Command::Status(args) => commands::status(args),
        Command::DemoProducer(args) => {
            return match demo::produce(args) {
                Ok(()) => ExitCode::SUCCESS,
                Err(failure) => fail(&cli, &failure),
            };
        }
    };
    match report {
        Err(failure) => fail(&cli, &failure),
        Ok(report) => {
            let text = if cli.json { format!("{:#}", report.json) } else { report.text };
            // A reader that went away (`| head`) is no failure of ours.
            let _ = writeln!(std::io::stdout(), "{text}");
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

fn fail(cli: &Cli, failure: &Failure) -> ExitCode {
    if cli.json {
        let _ = writeln!(std::io::stdout(), "{:#}", json!({ "error": failure.to_string(), "exit": failure.code() }));
    }
    eprintln!("vgpu: {failure}");
    ExitCode::from(failure.code())
}
