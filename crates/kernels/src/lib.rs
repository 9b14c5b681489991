//! Fused training operations for CPUs, as a backend extension of Burn.
//!
//! Burn composes a layer of operations that each read and write all of its numbers. For the networks that Kindling trains,
//! most of a step on a CPU is then spent moving data. The operations here do a layer at once, forward and backward, on
//! the slices of the two backends that have them in the program's own memory, flex and ndarray. libtorch has linear layers
//! and an SGD step of its own. Everywhere else, and for these two in other types than `f32`, it is the composition of Burn's
//! operations that each function documents. Call the functions of this page; none asks which backend it runs on. [`nn`] has
//! them as Burn modules.
//!
//! # The operations
//!
//! **Linear** ([`linear`], [`linear_relu`]), for `x` `[batch, inputs]`, `W` `[inputs, outputs]` and `b` `[outputs]`:
//!
//! - `y = relu?(x W + b)`
//! - `g = dy` where `y > 0`, or `dy` without ReLU
//! - `dx = g Wᵀ`, `dW = xᵀ g`, `db = Σ g` over the batch
//!
//! **Convolution block** ([`conv_block`], [`conv_block_inference`]), for images `x` `[batch, inputs, height, width]`:
//!
//! - `z`: the 3x3 convolution of `x` with stride 1 and a border of zeros, plus its bias
//! - `ẑ = (z - mean) / √(variance + ε)` for each channel, with the statistics over batch, height and width
//! - `y`: 2x2 max pooling with stride 2 of `relu(γ ẑ + β)`, where a last odd row or column is left out
//! - `g`: `dy` at the largest of each pool where `y > 0`, and zero elsewhere
//! - `dβ = Σ g`, `dγ = Σ g ẑ`, `dz = γ / √(variance + ε) (g - dβ / n - ẑ dγ / n)` for `n` values in a channel
//! - `dx` and `dW`: the convolution's own, of `dz`; the bias's gradient is zero, since batch norm takes the mean away
//! - in evaluation the statistics are constants: `dz = γ / √(variance + ε) g`, and the bias's gradient is its sum
//!
//! Details are PyTorch's: the first of equal values in a pool has the gradient, NaN passes a ReLU and wins a pool.
//!
//! **Cross entropy** ([`cross_entropy`]), for logits `a` `[batch, classes]`, targets `t` `[batch]`, smoothing `s`:
//!
//! - `p = softmax(a)`, `y = -(1 - s) ln p[t] - s mean(ln p)`
//! - `da = dy (p - (1 - s) [class = t] - s / classes)`
//!
//! **SGD step** ([`sgd_step`]): `p - rate * g`, in the memory of `p` if it is the only reference to it.
//!
//! **Rows** ([`select_rows`]): rows of a matrix by their indices, as a shuffled epoch takes its images.
//!
//! **Pixels** ([`filled`], [`normalize_bytes`], [`is_on_host`]) are not operations on tensors: they fill the arrays
//! of a batch on all threads, for devices whose memory is the program's.
//!
//! # How they work
//!
//! - `cpu::tile` multiplies matrices by tiles whose sums stay in the CPU's registers. It takes strides, and sums over
//!   *segments*: with these a row of pixels is convolved by the same loop, on the image as it lies.
//! - `cpu::linear` and `cpu::block` say what is packed, split into tasks and kept. Sums over the batch are taken in parts
//!   whose number does not depend on the machine, so that a result has the same bits for any number of threads.
//! - `cpu::parallel` has the threads: they spin a while between operations, which follow one another within microseconds.
//! - `cpu::Level` runs the same source compiled for AVX-512, AVX2 or none of them, whichever the CPU has.
//! - Images are `[batch, channels, height, width]` to Burn. Their memory may have the channels inside ([`ChannelOrder`]),
//!   as a block computes with them; a tensor in that order is a permuted view, so that every other operation takes it.
//!
//! # To add an operation
//!
//! 1. Write it for slices in `cpu`, with a test against plain loops at every level.
//! 2. Add it to [`KernelOps`] with a body that composes Burn's operations, in `composed`. Every backend has it then.
//! 3. In `fused`, let it try the slices first; in `autodiff`, register its gradients.
//! 4. Add it to `tests.rs`, which holds it against its composition for drawn shapes, forward and backward, at every level.
//! 5. Measure: `kindling bench --kernels auto,composed`.

#![recursion_limit = "512"]
#![allow(deprecated)] // Burn means to give ndarray up; while it has it, so do we.

mod autodiff;
mod composed;
#[allow(unsafe_code)] // Threads that share arrays, and vectors read past the compiler's bounds checks.
mod cpu;
mod fused;
mod host;
mod kernels;
#[cfg(feature = "libtorch")]
mod libtorch;
pub mod nn;
mod ops;
#[cfg(test)]
mod tests;

pub use cpu::{ChannelOrder, Level, filled, normalize_bytes, threads};
pub use host::is_on_host;
pub use kernels::Kernels;
pub use ops::{
    ConvBlock, ConvBlockOutput, KernelOps, conv_block, conv_block_inference, cross_entropy, linear, linear_relu,
    select_rows, sgd_step,
};
