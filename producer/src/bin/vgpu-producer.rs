//! The reference producer as a program: publishes test frames in a vgpu region until it is killed.

use core::str::FromStr;
use std::process::ExitCode;

use vgpu_perception_producer::program::{self, Options, Place};

const HELP: &str = "\
Publishes test frames in a vgpu region of its own memory until it is killed.

vgpu-producer [options]
  --width N --height N    size of the frames [1280 x 720]
  --fps N                 frames a second; 0: as many as can be [30]
  --frames N              end after so many frames
  --seconds N             end after so many seconds
  --epoch N               first run epoch [1]
  --restless              change the geometry with every frame too
  --chaos SEED            lie, remap, break sessions, die: all but the pictures goes wrong
  --report N              print the checksum of every Nth frame
  --file PATH             the region is the start of this file
  --stitch RAM LIST       the region is made of parts of the file RAM; LIST has a line for each: offset and length
";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.iter().any(|argument| argument == "--help" || argument == "-h") {
        print!("{HELP}");
        return ExitCode::SUCCESS;
    }
    let options = match parse(arguments) {
        Ok(options) => options,
        Err(told) => {
            eprintln!("vgpu-producer: {told}; see --help");
            return ExitCode::from(2);
        }
    };
    match program::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vgpu-producer: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(arguments: Vec<String>) -> Result<Options, String> {
    let mut options = Options::default();
    let mut rest = arguments.into_iter();
    while let Some(name) = rest.next() {
        let mut value = || rest.next().ok_or_else(|| format!("{name} needs a value"));
        match name.as_str() {
            "--width" => options.width = number(&name, &value()?)?,
            "--height" => options.height = number(&name, &value()?)?,
            "--fps" => options.fps = number(&name, &value()?)?,
            "--frames" => options.frames = Some(number(&name, &value()?)?),
            "--seconds" => options.seconds = Some(number(&name, &value()?)?),
            "--epoch" => options.run_epoch = number(&name, &value()?)?,
            "--report" => options.report = number(&name, &value()?)?,
            "--chaos" => options.chaos = Some(number(&name, &value()?)?),
            "--restless" => options.restless = true,
            "--file" => options.place = Place::File(value()?.into()),
            "--stitch" => options.place = Place::Stitch(value()?.into(), value()?.into()),
            _ => return Err(format!("there is no option {name}")),
        }
    }
    Ok(options)
}

fn number<T: FromStr>(name: &str, text: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("{name} {text}: not a number that fits"))
}
