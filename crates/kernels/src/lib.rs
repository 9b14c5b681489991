//! Fused training operations for CPUs, as a backend extension of Burn.
//!
//! Burn composes a layer of operations that each read and write all of its numbers. For the networks that Kindling
//! trains, most of a step on a CPU is then spent moving data. The operations here do a layer at once, forward and
//! backward, on the slices of the two backends that have them in the program's own memory, flex and ndarray. libtorch
//! has linear layers and an SGD step of its own. Everywhere else, and for these two in other types than `f32`, it is
//! the composition of Burn's operations that each function documents. Call the functions of this page; none asks which
//! backend it runs on. [`nn`] has them as Burn modules.
//!
//! # The operations
//!
//! **Linear** ([`linear`], [`linear_relu`], [`linear_activated`]), for `x` `[batch, inputs]`, `W` `[inputs, outputs]`
//! and `b` `[outputs]`:
//!
//! - `z = x W + b`, `y = f(z)` for an [`Activation`] `f`
//! - `g = f'(z) dy`
//! - `dx = g Wᵀ`, `dW = xᵀ g`, `db = Σ g` over the batch
//!
//! **Convolution layer** ([`conv_layer`]), for images `x` `[batch, inputs, height, width]`, by a [`ConvLayer`]; each
//! part but the order is optional:
//!
//! - `z`: the convolution of `x` by a square kernel with a stride, a border of zeros and groups of channels, plus its
//!   bias
//! - pooling of `z`, if it comes first: the largest or the mean of each pool
//! - `ẑ = (z - mean) / √(variance + ε)` for each channel, with the statistics over batch, height and width or given
//!   ones
//! - `a = γ ẑ + β + r` for a residual `r`, of which every pixel or every second is taken, with zeros for channels it
//!   lacks
//! - `y = f(a)` for an [`Activation`] `f`, pooled if pooling does not come first
//!
//! and backward:
//!
//! - pooling: `dy` at the largest of each pool, or `dy` divided by the pool's pixels at each of them; summed where
//!   pools overlap
//! - `g = f'(a) dy`, `dr = g` at the pixels that were taken
//! - `dβ = Σ g`, `dγ = Σ g ẑ`, `dz = γ / √(variance + ε) (g - dβ / n - ẑ dγ / n)` for `n` values in a channel; of given
//!   statistics, which are constants, `dz = γ / √(variance + ε) g`
//! - `dx` and `dW`: the convolution's own, of `dz`; the bias's gradient is `Σ dz`, which is zero by the batch's
//!   statistics, since batch norm takes the mean away
//!
//! Details are PyTorch's: the first of equal values in a pool has the gradient, NaN passes a ReLU and wins a pool.
//! Where nothing has a gradient nothing is kept, and by given statistics an image goes from convolution to pooling while
//! it is in the cache.
//!
//! A 3x3 convolution with stride 1 and enough channels is computed by tiles of 4x4 outputs, in the form F(4x4, 3x3) of
//! Winograd, with the transforms `A`, `B` and `G` that `cpu::conv::winograd` gives for the points 0, ±5/8, ±3/2 and ∞:
//!
//! - `z = Aᵀ [Σ (G w Gᵀ) ⊙ (Bᵀ x B)] A`, summed over the inputs; 36 multiplications where the definition has 144
//! - `dW = Gᵀ [Σ (Bᵀ x B) ⊙ (A dz Aᵀ)] G`, summed over the tiles; `dx` as `z`, of `dz` and the turned `w`
//!
//! Groups are computed as one convolution with zeros between them.
//!
//! **Cross entropy** ([`cross_entropy`]), for logits `a` `[batch, classes]`, targets `t` `[batch]`, smoothing `s`:
//!
//! - `p = softmax(a)`, `y = -(1 - s) ln p[t] - s mean(ln p)`
//! - `da = dy (p - (1 - s) [class = t] - s / classes)`
//!
//! **Layer norm** ([`layer_norm`]) of each row of `n` numbers, for `x` `[..., n]`:
//!
//! - `x̂ = (x - mean) / √(variance + ε)`, `y = γ x̂ + β`
//! - `g = γ dy`, `dx = (g - mean(g) - x̂ mean(g x̂)) / √(variance + ε)`, `dγ = Σ dy x̂`, `dβ = Σ dy` over the rows
//!
//! **Dropout** ([`dropout`]): `x / (1 - p)`, or zero with probability `p`; the gradients with the same mask.
//!
//! **Steps of optimizers** ([`sgd_step`], [`momentum_step`], [`adam_step`], [`muon_step`]), [`moving_average`],
//! [`scaled`]: one pass each, in the memory of what they change if they have the only reference to it. Muon's
//! Newton-Schulz iterations are products of symmetric matrices, of which half is computed; for long matrices they never
//! touch the long side. [`sum_of_squares`] is for a norm over all gradients.
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
//! - `cpu::linear` and `cpu::conv` say what is packed, split into tasks and kept. Sums over the batch are taken in
//!   parts whose number does not depend on the machine, so that a result has the same bits for any number of threads.
//!   A gradient that x has already from a residual is added to in place.
//! - `cpu::parallel` has the threads: they spin a while between operations, which follow one another within
//!   microseconds.
//! - `cpu::Level` runs the same source compiled for AVX-512, AVX2 or none of them, whichever the CPU has.
//! - Images are `[batch, channels, height, width]` to Burn. Their memory may have the channels inside
//!   ([`ChannelOrder`]), as a layer computes with them; a tensor in that order is a permuted view, so that every other
//!   operation takes it.
//!
//! # To add an operation
//!
//! 1. Write it for slices in `cpu`, with a test against plain loops at every level.
//! 2. Add it to [`KernelOps`] with a body that composes Burn's operations, in `composed`. Every backend has it then.
//! 3. In `fused`, let it try the slices first; in `autodiff`, register its gradients.
//! 4. Add it to `tests`, forward and backward, at every level: against its composition, for drawn shapes (`conv`,
//!    `linear`, `optimizer`) or some (`norm`), against plain loops (`plain_conv`, `cross_entropy`), through Burn's tensors
//!    on each backend (`backends`), and with several numbers of threads (`threads`).
//! 5. Measure: `kindling bench --kernels auto,composed`.

#![recursion_limit = "512"]
#![allow(deprecated)] // Burn means to give ndarray up; while it has it, so do we.

mod autodiff;
mod composed;
mod conv;
#[allow(unsafe_code)] // Threads that share arrays, and vectors read past the compiler's bounds checks.
mod cpu;
mod fused;
mod host;
mod kernels;
mod layer;
#[cfg(feature = "libtorch")]
mod libtorch;
pub mod nn;
mod ops;
mod optimizer;
#[cfg(test)]
mod tests;

pub use conv::{BatchStatistics, ConvOperands, ConvOutput, ConvPrimitives, ConvTensors, conv_layer};
pub use cpu::{Level, filled, normalize_bytes, threads};
pub use host::is_on_host;
pub use kernels::Kernels;
pub use layer::{Activation, ChannelOrder, ConvLayer, Epilogue, Pool};
pub use ops::{KernelOps, cross_entropy, dropout, layer_norm, linear, linear_activated, linear_relu, select_rows};
pub use optimizer::{
    AdamStep, MomentumStep, MuonStep, WeightDecay, adam_step, decayed_sgd_step, momentum_step, moving_average,
    muon_step, scaled, sgd_step, sum_of_squares,
};
