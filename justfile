# Kindling's workflow: `just` lists it.

set positional-arguments

[private]
default:
    @just --list --unsorted

# Train MODEL (mlp, mlp-deep, mlp-wide, cnn) on BACKEND (flex, ndarray); ARGS as in `kindling train --help`
train BACKEND MODEL *ARGS:
    @backend="$1"; shift; cargo run --release --locked --package kindling -- train --backend "$backend" "$@"

# Train on the CPU with flex, the fastest pure-Rust backend: just train-cpu mlp-deep --epochs 3
train-cpu MODEL *ARGS:
    @just train flex "$@"

# Train on the CPU with ndarray, Burn's first backend
train-ndarray MODEL *ARGS:
    @just train ndarray "$@"

# Go on with an interrupted run: just resume RUN
resume RUN *ARGS:
    cargo run --release --locked --package kindling -- resume "$@"

# List the runs
runs *ARGS:
    cargo run --release --locked --package kindling -- runs "$@"

# List the models with their layers and parameters
models *ARGS:
    cargo run --release --locked --package kindling -- models "$@"

# Run every test: the crates' own, and the program's on real data
test:
    cargo test --release --locked --workspace

# Check the format, clippy's lints and the documentation, with warnings as errors
check:
    cargo fmt --all --check
    cargo clippy --release --locked --workspace --all-targets --features flex,ndarray -- --deny warnings
    RUSTDOCFLAGS="--deny warnings" cargo doc --release --locked --workspace --no-deps --document-private-items

# Compare training as users run it with a bare loop: just bench-overhead cnn 7 5000
bench-overhead *ARGS:
    cargo bench --locked --package kindling --bench overhead -- "$@"
