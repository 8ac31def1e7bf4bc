//! What is generated out of the command line's own description: completions for shells, manual pages.

use std::fs;
use std::io;
use std::path::Path;

use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use clap_mangen::roff::{Roff, roman};

use crate::args::{Cli, Completions, ManualPages};
use crate::failure::Failure;
use crate::output::Target;

/// Writes the completions for a shell to standard output.
pub(crate) fn completions(args: &Completions) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "vgpu", &mut script);
    io::Write::write_all(&mut io::stdout(), &script).map_err(|error| Target::Stdout.failed(&error))
}

/// Writes a page for `vgpu` and one for each command, and the completions, below a folder as Debian lays them out.
pub(crate) fn pages(args: &ManualPages) -> Result<(), Failure> {
    let root = &args.folder;
    let mut command = Cli::command();
    command.build();
    let section = root.join("man1");
    page(&section, "vgpu", command.clone())?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let name = format!("vgpu-{}", sub.get_name());
        page(&section, &name, sub.clone())?;
    }
    for (shell, file) in [(Shell::Bash, "bash/vgpu"), (Shell::Zsh, "zsh/_vgpu"), (Shell::Fish, "fish/vgpu.fish")] {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut Cli::command(), "vgpu", &mut script);
        write(&root.join(file), &script)?;
    }
    Ok(())
}

/// One page: what clap knows, then what every command shares.
fn page(section: &Path, name: &str, command: clap::Command) -> Result<(), Failure> {
    let page = name.to_owned();
    // Without the commit: a page does not differ from build to build.
    let number = env!("CARGO_PKG_VERSION");
    let man = Man::new(command.version(number).display_name(page.clone()))
        .title(page.to_uppercase())
        .source(format!("vgpu {number}"))
        .manual("vgpu manual");
    let mut text = Vec::new();
    let failed = |error: io::Error| Failure::Output(format!("{page}: {error}"));
    man.render(&mut text).map_err(failed)?;
    let mut also = Roff::new();
    also.control("SH", ["SEE ALSO"]);
    also.text([roman(if name == "vgpu" { "vgpu-COMMAND(1) for each command, qemu(1)" } else { "vgpu(1)" })]);
    also.to_writer(&mut text).map_err(failed)?;
    write(&section.join(format!("{name}.1")), &text)
}

fn write(path: &Path, bytes: &[u8]) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::Output(format!("{}: {error}", path.display()));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(failed)?;
    }
    fs::write(path, bytes).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_has_a_page_and_every_shell_its_script() {
        let folder = std::env::temp_dir().join(format!("vgpu-manual-{}", std::process::id()));
        pages(&ManualPages { folder: folder.clone() }).unwrap();
        let read = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        assert!(read("man1/vgpu.1").contains("SEE ALSO"));
        for sub in Cli::command().get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let text = read(&format!("man1/vgpu-{}.1", sub.get_name()));
            assert!(text.contains(".SH OPTIONS"), "vgpu-{} tells no options", sub.get_name());
        }
        for script in ["bash/vgpu", "zsh/_vgpu", "fish/vgpu.fish"] {
            assert!(read(script).contains("sample"), "{script}");
        }
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn pages_are_the_same_in_every_build() {
        let folder = std::env::temp_dir().join(format!("vgpu-manual-again-{}", std::process::id()));
        pages(&ManualPages { folder: folder.clone() }).unwrap();
        let text = fs::read_to_string(folder.join("man1/vgpu.1")).unwrap();
        let commit = env!("VGPU_VERSION").split(['(', ')']).nth(1).unwrap();
        assert!(!text.contains(commit), "the page names the commit {commit}");
        fs::remove_dir_all(&folder).unwrap();
    }
}
