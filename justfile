# Kindling's workflow: `just` lists it.

set positional-arguments

[private]
default:
    @just --list --unsorted

# Train MODEL (mlp, cnn, resnet-20, ...: just models) on BACKEND (flex, ndarray, wgpu, ...); ARGS as in `kindling train --help`
train BACKEND MODEL *ARGS:
    @backend="$1"; shift; build=$(just build-of "$backend") && scripts/kindling "$build" train --backend "$backend" "$@"

# Train on the CPU with flex, the fastest pure-Rust backend: just train-cpu mlp-deep --epochs 3
train-cpu MODEL *ARGS:
    @just train flex "$@"

# Train on the CPU with ndarray, Burn's first backend
train-ndarray MODEL *ARGS:
    @just train ndarray "$@"

# Train on any GPU through wgpu, or on Mesa's software Vulkan where there is none
train-wgpu MODEL *ARGS:
    @just train wgpu "$@"

# Train on a GPU through Vulkan
train-vulkan MODEL *ARGS:
    @just train vulkan "$@"

# Train on the CPU with PyTorch's kernels; finds libtorch or fetches it
train-libtorch MODEL *ARGS:
    @just train libtorch "$@"

# Train on an NVIDIA GPU with PyTorch's kernels; finds libtorch or fetches it
train-cuda MODEL *ARGS:
    @just train libtorch-cuda "$@"

# Resume an interrupted run: just resume RUN
resume RUN *ARGS:
    @just kindling cpu resume "$@"

# Train every combination of values: just sweep mlp --learning-rate 1,0.1,0.01 --seeds 3
sweep *ARGS:
    @just kindling cpu sweep "$@"

# Regenerate the assignment, with a report in reports/reproduction: just reproduce --seeds 3
reproduce *ARGS:
    @just kindling cpu reproduce "$@"

# List the claims, with the figures on record: what each recipe of experiments/recipes reaches
claims *ARGS:
    @just kindling cpu claims "$@"

# Train a claim's recipe with five seeds, check it, and write assets/claims/NAME.md; again to resume: just claim fast94 --seeds 5
claim NAME *ARGS:
    @just kindling cpu claim "$@"

# List the runs
runs *ARGS:
    @just kindling cpu runs "$@"

# Watch the runs in a browser as they train; --control lets it stop and resume them: just watch --open
watch *ARGS:
    @just kindling cpu watch "$@"

# Set runs side by side: just compare RUN RUN
compare *ARGS:
    @just kindling cpu compare "$@"

# Look closer at a finished run's weights: just evaluate RUN
evaluate RUN *ARGS:
    @just kindling cpu evaluate "$@"

# Classify pictures with a run's weights: just predict RUN shoe.jpg
predict RUN *ARGS:
    @just kindling cpu predict "$@"

# Write a run for other programs (onnx, safetensors, burn, huggingface, csv, tensorboard, html): just export RUN --format onnx
export *ARGS:
    @just kindling cpu export "$@"

# Make a run of weights from elsewhere (.pt, .safetensors, .onnx): just import FILE --network cnn --name NAME
import FILE *ARGS:
    @just kindling cpu import "$@"

# Try a run on drawings, pictures and the camera, in a browser: just play RUN
play *ARGS:
    @just kindling cpu play "$@"

# Write a report of runs, HTML and Markdown: just report RUN RUN
report *ARGS:
    @just kindling cpu report "$@"

# Show images of the data set, and the shapes of batches
samples *ARGS:
    @just kindling cpu samples "$@"

# List the models with their layers and parameters
models *ARGS:
    @just kindling cpu models "$@"

# Say what BUILD (cpu, ndarray, gpu, remote, libtorch, libtorch-cuda) and this machine have, and recommend a backend
doctor BUILD="cpu" *ARGS:
    @build="${1:-cpu}"; shift $(($# > 0)); scripts/kindling "$build" doctor "$@"

# Compare speeds in BUILD: just bench libtorch mlp cnn --pytorch python3
bench BUILD *ARGS:
    @build="$1"; shift; scripts/kindling "$build" bench "$@"

# Time Kindling against PyTorch on this CPU, in ten minutes, and keep the results in assets/bench: just bench-cpu python3
bench-cpu PYTHON *ARGS:
    scripts/bench-cpu "$@"

# Write BENCHMARKS.md from the results in assets/bench
bench-page:
    python3 assets/bench/page.py

# Check and time a built PROGRAM on this machine's GPU against PyTorch, in eight minutes: just gpu-check target/release/kindling python3
gpu-check PROGRAM PYTHON *ARGS:
    scripts/gpu-check "$@"

# Check what a built PROGRAM exports and imports by the other side's own software: just check-exchange target/release/kindling python3
check-exchange PROGRAM PYTHON *ARGS:
    scripts/check-exchange "$@"

# Offer a device to other programs and machines: just serve --backend wgpu
serve *ARGS:
    @just kindling remote serve "$@"

# Any command in any build: just kindling gpu resume RUN --backend vulkan
kindling BUILD *ARGS:
    @scripts/kindling "$@"

# Run every test of the default build: the crates' own, and the program's on real data
test:
    cargo test --release --locked --workspace

# Test all backends in one build: ndarray, libtorch, remote, and wgpu and vulkan (Mesa's software driver without a GPU)
test-backends:
    # The kernels' tests, unlike the program, do not know where libtorch is.
    scripts/with-libtorch sh -c 'LD_LIBRARY_PATH="${LIBTORCH_LIB:-$LIBTORCH}/lib" cargo test --release --locked --package kindling --package kindling-data --package kindling-kernels --lib --bins --tests --features "$(scripts/features all)" -- golden backend parquet remote'
    runs=$(mktemp -d) && for backend in ndarray wgpu vulkan libtorch; do \
        KINDLING_BUILD=all just train $backend mlp --limit-batches 20 --epochs 1 --runs-dir "$runs" || exit 1; done

# Check the format, clippy's lints and the documentation, with warnings as errors
check:
    cargo fmt --all --check
    scripts/with-libtorch cargo clippy --release --locked --workspace --all-targets --features "kindling/$(scripts/features all | sed 's|,|,kindling/|g')" -- --deny warnings
    RUSTDOCFLAGS="--deny warnings" scripts/with-libtorch cargo doc --release --locked --workspace --no-deps --document-private-items --features "kindling/$(scripts/features all | sed 's|,|,kindling/|g')"

# Compare training as users run it with a bare loop: just bench-overhead cnn 7 5000
bench-overhead *ARGS:
    cargo bench --locked --package kindling --bench overhead -- "$@"

# Say where the time of a CNN's training step goes on the CPU: just bench-stages 64 300
bench-stages *ARGS:
    cargo bench --locked --package kindling --bench stages -- "$@"

# The build that has BACKEND; indices as in wgpu:1 do not matter
[private]
build-of BACKEND:
    @case "${1%%:*}" in flex | cpu) echo cpu ;; wgpu | vulkan) echo gpu ;; \
        ndarray | libtorch | libtorch-cuda | remote | cuda | metal | rocm) echo "${1%%:*}" ;; \
        *) echo "no backend '$1'; \`kindling train --help\` names them" >&2; exit 2 ;; esac
