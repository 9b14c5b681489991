//! `kindling`: trains image classifiers on any backend of Burn and keeps every run; and the assignment, regenerated.

// Backends nest generic types deeper than the compiler's default goes.
#![recursion_limit = "512"]

mod assignment;

use std::process::ExitCode;

use kindling_workbench::Workbench;

kindling_workbench::allocator!();

fn main() -> ExitCode {
    Workbench::new("kindling").command(assignment::command(), assignment::reproduce).main()
}
