//! The backends of Kindling, those of this build and those of others.

use crate::output::program;

/// A backend that people can ask for.
#[derive(Debug)]
pub(crate) struct Known {
    /// As in `--backend` and in records.
    pub(crate) name: &'static str,
    pub(crate) what: &'static str,
    pub(crate) is_compiled_in: bool,
    /// The recipe that trains on it.
    pub(crate) recipe: &'static str,
    /// That build, as in `just kindling BUILD`.
    pub(super) build: &'static str,
    /// What `BURN_DEVICE` calls it, or one that is as good as a default.
    pub(super) burn_name: &'static str,
}

impl Known {
    /// How to get a build of this program that has it.
    pub(crate) fn way(&self) -> String {
        if program() == "kindling" {
            return format!("{}; any command has it in: just kindling {} ...", self.recipe, self.build);
        }
        let feature = match self.name {
            "vulkan" => "wgpu",
            "libtorch-cuda" => "libtorch",
            name => name,
        };
        format!("the feature `{feature}` of kindling-workbench")
    }
}

/// Every backend, the portable ones first.
pub(crate) const KNOWN: &[Known] = &[
    Known {
        name: "flex",
        what: "pure Rust on the CPU",
        is_compiled_in: cfg!(feature = "flex"),
        recipe: "just train-cpu",
        build: "cpu",
        burn_name: "flex",
    },
    Known {
        name: "ndarray",
        what: "Burn's first CPU backend",
        is_compiled_in: cfg!(feature = "ndarray"),
        recipe: "just train-ndarray",
        build: "ndarray",
        burn_name: "ndarray",
    },
    Known {
        name: "wgpu",
        what: "any GPU, through the graphics API it has",
        is_compiled_in: cfg!(feature = "wgpu"),
        recipe: "just train-wgpu",
        build: "gpu",
        burn_name: "wgpu",
    },
    Known {
        name: "vulkan",
        what: "any GPU with a Vulkan driver",
        is_compiled_in: cfg!(feature = "wgpu"),
        recipe: "just train-vulkan",
        build: "gpu",
        burn_name: if cfg!(feature = "vulkan") { "vulkan" } else { "wgpu" },
    },
    Known {
        name: "libtorch",
        what: "PyTorch's kernels on the CPU",
        is_compiled_in: cfg!(feature = "libtorch"),
        recipe: "just train-libtorch",
        build: "libtorch",
        burn_name: "tch",
    },
    Known {
        name: "libtorch-cuda",
        what: "PyTorch's kernels on NVIDIA GPUs",
        is_compiled_in: cfg!(feature = "libtorch"),
        recipe: "just train-cuda",
        build: "libtorch-cuda",
        burn_name: "tch",
    },
    Known {
        name: "remote",
        what: "a device that the command `serve` offers",
        is_compiled_in: cfg!(feature = "remote"),
        recipe: "just train remote MODEL --remote URL",
        build: "remote",
        // Burn would look for a server by itself.
        burn_name: "flex",
    },
    Known {
        name: "cuda",
        what: "Burn's own kernels on NVIDIA GPUs",
        is_compiled_in: cfg!(feature = "cuda"),
        recipe: "just train cuda",
        build: "cuda",
        burn_name: "cuda",
    },
    Known {
        name: "metal",
        what: "Burn's own kernels on Apple's GPUs",
        is_compiled_in: cfg!(feature = "metal"),
        recipe: "just train metal",
        build: "metal",
        burn_name: "metal",
    },
    Known {
        name: "rocm",
        what: "Burn's own kernels on AMD's GPUs",
        is_compiled_in: cfg!(feature = "rocm"),
        recipe: "just train rocm",
        build: "rocm",
        burn_name: "rocm",
    },
];

/// The backend to use where none is asked for.
pub(crate) fn default_name() -> &'static str {
    compiled_in().next().map_or("flex", |known| known.name)
}

/// What this build has.
pub(crate) fn compiled_in() -> impl Iterator<Item = &'static Known> {
    KNOWN.iter().filter(|known| known.is_compiled_in)
}
