//! The command line: commands, options, and their help.

use std::path::PathBuf;

use clap::{ArgGroup, Args, Parser, Subcommand};
use vgpu_perception_mapped::{Machine, MachineOptions, parse_machine};

use crate::numbers::{Root, address, cr3, wait_ms};
use crate::output::Still;
#[cfg(feature = "serve")]
use crate::serve::{Listen, Serve};
use crate::stream::Stream;
use crate::watch::Watch;

/// Find a vgpu region in a guest's RAM and read it. Never writes guest memory.
#[derive(Debug, Parser)]
#[command(name = "vgpu", version = env!("VGPU_VERSION"), arg_required_else_help = true, after_help = AFTER_HELP)]
#[command(max_term_width = 100)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
    /// Machine output: one JSON object on standard output, errors too
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Give details with the result, and say on standard error what is done and how long it took
    #[arg(short, long, global = true)]
    pub(crate) verbose: bool,
}

const AFTER_HELP: &str = "\
Exit codes:
  0  done
  1  nothing there: no candidate (find), none alive, no frame (sample, status)
  2  wrong usage, or a name that means two things
  3  the guest, its RAM, its map or its monitor could not be used
  4  the region could not be read any more
  5  the output could not be written

With --json, standard output is one object. Where the exit code is not 0 it has \"error\" and \"exit\". Addresses are \
strings, \"0x...\".";

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// The tour: build a guest, run a producer in it, find it, take frames, check every pixel, write frame.png
    Demo(Demo),
    /// List the virtual machines of this host: pid, name, size, and whether their RAM can be read
    List,
    /// Go through each step from a guest's name to its frames, and say what was seen and what to change
    Doctor(Doctor),
    /// List the guest's processes; -v adds how each fact was proven
    Ps(Ps),
    /// List the regions in a guest's processes, the live ones first
    Find(Find),
    /// Take frames and write them as pictures: PNG, JPEG or PPM
    Sample(Sample),
    /// Write a guest's frames as a video: vgpu stream win11 | ffmpeg -i - out.mkv
    Stream(Stream),
    /// Show a guest's screen in this terminal
    Watch(Watch),
    /// Show the screens of all guests in a browser: thumbnails, stills, MJPEG, metrics
    #[cfg(feature = "serve")]
    Serve(Serve),
    /// Show lifecycle, cursor and geometry of the live region
    Status(Status),
    /// Print the completions for a shell: vgpu completions bash > ~/.local/share/bash-completion/completions/vgpu
    Completions(Completions),
    /// Write the manual pages and completions into a folder, for who packages this command
    #[command(hide = true)]
    ManualPages(ManualPages),
    /// The demo's producer, in a process of its own
    #[command(hide = true)]
    DemoProducer(DemoProducer),
}

/// Where the guest's RAM is.
#[derive(Debug, Args)]
#[command(group = ArgGroup::new("which").args(["guest", "qmp", "pid"]).required(true))]
pub(crate) struct Guest {
    /// The guest: name:NAME, pid:N, qmp:PATH, qmp:HOST:PORT, ch:SOCKET, ram:FILE[,FILE...], core:FILE, or a word that
    /// can be only one of these
    pub(crate) guest: Option<String>,
    /// How the machine splits the RAM of ram:FILE: pc, q35, microvm, ch (cloud-hypervisor), firecracker or crosvm, with
    /// its options behind commas: max-ram-below-4g=SIZE, above-4g=1T
    #[arg(long, value_parser = parse_machine, conflicts_with = "map")]
    pub(crate) machine: Option<(Machine, MachineOptions)>,
    /// A segment of the RAM of ram:FILE[,FILE...]: gpa:len:offset, or gpa:len:offset:file with files counted from 0;
    /// numbers decimal or 0x, with K, M, G; may be repeated
    #[arg(long, value_name = "GPA:LEN:OFFSET[:FILE]")]
    pub(crate) map: Vec<String>,
    /// Ask QEMU on this QMP socket for the RAM file, its layout and CR3
    #[arg(long, value_name = "SOCKET")]
    pub(crate) qmp: Option<String>,
    /// The process that runs the guest, as pid:N
    #[arg(long, value_name = "PID")]
    pub(crate) pid: Option<u32>,
    /// The page-table root of any process of the guest, or auto
    #[arg(long, value_name = "N|auto", value_parser = cr3, default_value = "auto")]
    pub(crate) cr3: Root,
}

#[derive(Debug, Args)]
pub(crate) struct Ps {
    #[command(flatten)]
    pub(crate) guest: Guest,
    /// Processes that have ended too, and those whose address space is unknown
    #[arg(long)]
    pub(crate) all: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Find {
    #[command(flatten)]
    pub(crate) guest: Guest,
    /// Milliseconds to watch the heartbeats at most; a producer beats at least every 250, and the wait ends as soon as
    /// all is known
    #[arg(long, value_name = "MS", default_value_t = 600, value_parser = wait_ms)]
    pub(crate) wait_ms: u64,
    /// Seconds to wait for a guest that is not up yet, or whose producer has not started
    #[arg(long, value_name = "SECONDS", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub(crate) wait_for: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Doctor {
    #[command(flatten)]
    pub(crate) find: Find,
}

/// Which region, where a guest has several.
#[derive(Clone, Debug, Args)]
pub(crate) struct Which {
    /// The region at this address of its process
    #[arg(long, value_name = "N", value_parser = address)]
    pub(crate) base: Option<u64>,
    /// The region of this process of the guest: its number or its name
    #[arg(long, value_name = "PID|NAME")]
    pub(crate) process: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Sample {
    #[command(flatten)]
    pub(crate) find: Find,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Take every live region, each into a file of its own: FILE-BASE-CR3
    #[arg(long, conflicts_with = "stale")]
    pub(crate) all: bool,
    /// Where to write the picture: a file, in the format that its name says (.png, .jpg, .ppm), or - for standard
    /// output
    #[arg(short, long, value_name = "FILE|-", default_value = "frame.png")]
    pub(crate) output: PathBuf,
    /// The format, whatever the name says
    #[arg(long, value_enum)]
    pub(crate) format: Option<Still>,
    /// Take this many frames and write the last
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) frames: u64,
    /// Take this many frames and write each into a file of its own: frame-1.png, frame-2.png, ...
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), conflicts_with = "frames")]
    pub(crate) each: Option<u64>,
    /// Take a stale region (no heartbeat) too: a paused guest, or a producer that ended
    #[arg(long, alias = "still")]
    pub(crate) stale: bool,
    /// Give up after this many seconds without a new frame
    #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(crate) timeout: u64,
}

#[derive(Debug, Args)]
pub(crate) struct Status {
    #[command(flatten)]
    pub(crate) find: Find,
    #[command(flatten)]
    pub(crate) which: Which,
    /// Take a stale region (no heartbeat) too: a paused guest, or a producer that ended
    #[arg(long, alias = "still")]
    pub(crate) stale: bool,
}

#[derive(Debug, Args)]
pub(crate) struct Demo {
    /// Where to write the PNG
    #[arg(short, long, value_name = "FILE.png", default_value = "frame.png")]
    pub(crate) output: PathBuf,
    /// Sample for this many seconds
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(1..=600))]
    pub(crate) seconds: u64,
    /// Make the guest a Windows one: a synthetic kernel with a list of processes, most of the region's pages trimmed
    #[arg(long)]
    pub(crate) windows: bool,
    /// Go on with the wall in a browser, on a Linux and on a Windows guest, until ctrl-C
    #[cfg(feature = "serve")]
    #[arg(long)]
    pub(crate) serve: bool,
    #[cfg(feature = "serve")]
    #[command(flatten)]
    pub(crate) listen: Listen,
}

#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// The shell: bash, zsh, fish, elvish or powershell
    pub(crate) shell: clap_complete::Shell,
}

#[derive(Debug, Args)]
pub(crate) struct ManualPages {
    /// The folder; it gets man1, bash, zsh and fish
    pub(crate) folder: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct DemoProducer {
    /// The RAM file
    pub(crate) ram: PathBuf,
    /// The pieces of the file that make up the region
    pub(crate) pieces: PathBuf,
    /// The process of the demo: this one ends with it
    pub(crate) demo: u32,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
