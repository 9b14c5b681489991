//! With the feature `libtorch`: lets the program find the library it was linked with, wherever it is started from.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Told by torch-sys, which has found the library by now. What a dependency's build script says to the linker does
    // not reach this program.
    if let Ok(directory) = env::var("DEP_TCH_LIBTORCH_LIB") {
        println!("cargo::rustc-link-arg=-Wl,-rpath,{directory}");
    }
}
