//! Products whose columns are channels in whole vectors: panels of two vectors, and at the end one of one.

use pulp::{NullaryFnOnce, Simd};

use crate::cpu::tile::{self, Ahead, Columns, Destination, Rows, Sum};

/// The first channel of each panel of so many channels, and its number of vectors.
#[inline(always)]
pub(super) fn panels<S: Simd>(channels: usize) -> impl Iterator<Item = (usize, usize)> {
    let vectors = channels / S::F32_LANES;
    (0..vectors).step_by(2).map(move |first| (first * S::F32_LANES, (vectors - first).min(2)))
}

/// The panel of a channel among so many: its first channel, and how many it has.
pub(super) fn panel_of(lanes: usize, channels: usize, channel: usize) -> (usize, usize) {
    let first = channel / (2 * lanes) * (2 * lanes);
    (first, (channels - first).min(2 * lanes))
}

/// A product for a panel of one or two vectors.
pub(super) struct Product<'a> {
    pub(super) vectors: usize,
    pub(super) rows: usize,
    pub(super) a: Rows<'a>,
    pub(super) b: Columns<'a>,
    pub(super) sum: Sum,
    /// What the sums begin with; zero for none.
    pub(super) initial: Option<&'a [f32]>,
    /// What is fetched meanwhile, as in [`tile::product`].
    pub(super) ahead: Option<Ahead>,
    pub(super) to: Destination<'a>,
}

impl Product<'_> {
    /// Computes it by [`tile::product`], which is compiled once for all that come by here.
    ///
    /// # Safety
    /// As there.
    #[inline(always)]
    pub(super) unsafe fn run<S: Simd>(self, simd: S) {
        // SAFETY: the caller's promise.
        simd.vectorize(unsafe { Compute::new(simd, &self) });
    }
}

struct Compute<'a, S> {
    simd: S,
    product: &'a Product<'a>,
}

impl<'a, S: Simd> Compute<'a, S> {
    /// # Safety
    /// As [`tile::product`]'s.
    #[inline(always)]
    unsafe fn new(simd: S, product: &'a Product<'a>) -> Self {
        Self { simd, product }
    }
}

impl<S: Simd> NullaryFnOnce for Compute<'_, S> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Self { simd, product: &Product { vectors, rows, a, b, sum, initial, ahead, to } } = self;
        let zero = simd.splat_f32s(0.0);
        let initial = initial.map(|initial| S::as_simd_f32s(initial).0);
        let at = |v: usize| initial.map_or(zero, |initial| initial[v]);
        // SAFETY: the promise of who made this.
        unsafe {
            if vectors == 2 {
                tile::product::<S, 2>(simd, rows, a, b, sum, [at(0), at(1)], ahead, to);
            } else {
                tile::product::<S, 1>(simd, rows, a, b, sum, [at(0)], ahead, to);
            }
        }
    }
}
