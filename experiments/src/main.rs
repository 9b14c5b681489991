//! `kindling`: trains image classifiers on any backend of Burn and keeps every run; the recipes, claims
//! about them that anyone can repeat, and the assignment, regenerated.

// Backends nest generic types deeper than the compiler's default goes.
#![recursion_limit = "512"]

mod assignment;
mod claims;

use std::process::ExitCode;

use kindling_workbench::Workbench;

kindling_workbench::allocator!();

fn main() -> ExitCode {
    claims::with_recipes(Workbench::new("kindling"))
        .command(assignment::command(), assignment::reproduce)
        .command(claims::claims_command(), claims::claims)
        .command(claims::claim_command(), claims::claim)
        .main()
}
