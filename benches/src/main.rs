//! Measures the library beside the limits of this machine and beside its peers: one run, interleaved rounds, medians.
//!
//! `--quick` takes fewer rounds; `frames`, `sinks`, `small`, `scale`, `scans`, `windows`, `process` run that part only,
//! and of the frames `cold`, `written`, `warm`, `1080p`, `4K` those alone. `--choices` prints what was learned of the
//! copy methods, column by column.
#![deny(unsafe_code)]

mod builder;
mod frames;
mod image;
mod measure;
mod process;
mod raw;
mod scale;
mod scans;
mod sinks;
mod small;
mod small_guest;
mod windows;
mod writer;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|first| first == process::VMM) {
        return process::vmm();
    }
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let quick = has("--quick");
    let parts = ["frames", "sinks", "small", "scale", "scans", "windows", "process"];
    let wanted = |part: &str| has(part) || !parts.iter().any(|part| has(part));
    let start = std::time::Instant::now();
    let mut goals = measure::Goals::new();
    if wanted("process") {
        process::run(&mut goals, quick);
    }
    if !["frames", "sinks", "small", "scans"].into_iter().any(wanted) {
        // What needs no large guest.
        println!("processor: {}", measure::processor());
        if wanted("scale") {
            scale::run(&mut goals, quick);
        }
        if wanted("windows") {
            windows::run(quick);
        }
        return goals.sum_up();
    }
    println!("processor: {}", measure::processor());
    let image = image::build(4 << 30, wanted("scans") || wanted("small"));
    println!("image built in {:.0} s", start.elapsed().as_secs_f64());
    if wanted("frames") {
        frames::run(&image, &mut goals, quick, &has);
    }
    if wanted("sinks") {
        sinks::run(&image, &mut goals, quick);
    }
    if wanted("small") {
        small::run(&image, &mut goals, quick);
    }
    if wanted("scale") {
        scale::run(&mut goals, quick);
    }
    if wanted("scans") {
        scans::run(&image, &mut goals, quick);
    }
    // Last: memory that a guest of this size gave back is in pieces, and frames are slower in it.
    if wanted("windows") {
        windows::run(quick);
    }
    goals.sum_up();
    println!("took {:.0} s", start.elapsed().as_secs_f64());
}
