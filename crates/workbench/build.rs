//! With the feature `libtorch`: says which library the crate was linked with, and lets its tests find it.

use std::{env, fs, path::Path};

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    // Told by torch-sys, which has found the library by now.
    let Ok(directory) = env::var("DEP_TCH_LIBTORCH_LIB") else { return };
    let libraries = Path::new(&directory);
    println!("cargo::rustc-link-arg=-Wl,-rpath,{directory}");
    println!("cargo::rustc-env=KINDLING_LIBTORCH={directory}");
    println!("cargo::rustc-env=KINDLING_LIBTORCH_VERSION={}", version(libraries).unwrap_or_default());
    let has_cuda = libraries.join("libtorch_cuda.so").exists();
    println!("cargo::rustc-env=KINDLING_LIBTORCH_CUDA={}", if has_cuda { "yes" } else { "" });
}

/// What the library's headers call its version: `#define TORCH_VERSION_MAJOR 2` and so on.
fn version(libraries: &Path) -> Option<String> {
    let headers = libraries.parent()?.join("include/torch");
    let text = fs::read_to_string(headers.join("csrc/api/include/torch/version.h")).ok()?;
    let part = |name: &str| {
        let start = text.find(&format!("#define TORCH_VERSION_{name} "))?;
        text[start..].split_whitespace().nth(2).map(str::to_owned)
    };
    Some(format!("{}.{}.{}", part("MAJOR")?, part("MINOR")?, part("PATCH")?))
}
