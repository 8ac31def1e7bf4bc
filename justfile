# The daily commands; `just` lists them. Each is a line of shell that works without just too.

# List the commands
default:
    @just --list --unsorted

# Install what the tests need from Debian
setup:
    .ci/setup

# Format everything; comments too, which rustfmt leaves as long as they are
fmt:
    python3 .ci/lines.py wrap $(git ls-files '*.rs')
    cargo fmt --all
    cd fuzz && cargo fmt
    cd bindings/python && cargo fmt

# Format, prose and lints: seconds once built
check:
    .ci/run format prose clippy

# The quick round: format, prose, and the tests of what everything else rests on
quick:
    .ci/run format prose quick

# Lints and all tests of the workspace
tests:
    .ci/run format prose clippy quick tests

# The tests of one package: just test core
test package *arguments:
    cargo test --manifest-path {{package}}/Cargo.toml {{arguments}}

# All of one change's round, under 45 minutes on two cores; or steps of it: just ci guest docs
ci *steps:
    .ci/run {{steps}}

# Everything, other machines and long fuzzing included: hours
long:
    .ci/run long

# Find, sample and check every pixel of a built-in guest
demo *arguments:
    cargo run --release -p vgpu-perception-cli -- demo {{arguments}}

# Fuzz one target: just fuzz nt 60
fuzz target seconds="30":
    .ci/fuzz {{seconds}} {{target}}

# Run a command for another machine: just on aarch64 cargo test -p vgpu-perception --target aarch64-unknown-linux-gnu
on machine *command:
    .ci/toolchain run {{machine}} {{command}}

# Run the quick round before every push from this clone
hooks:
    git config core.hooksPath .ci/hooks
