//! The `gatepost` command.

use std::process::ExitCode;

/// Many small, short-lived pieces (header maps, buffers) on one thread are what it is good at.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    gatepost::cli::run(std::env::args_os(), gatepost::app::serve)
}
