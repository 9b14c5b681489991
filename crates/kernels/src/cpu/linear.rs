use pulp::{Simd, WithSimd};

use super::{
    Level,
    parallel::{self, Shared},
    scratch::Scratch,
    tile::{self, Columns, Rows, Sum},
};

/// Sizes of a linear layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sizes {
    pub(crate) batch: usize,
    pub(crate) inputs: usize,
    pub(crate) outputs: usize,
}

/// `y = relu?(x W + bias)` for `x` `[batch, inputs]`, `W` `[inputs, outputs]`, `bias` `[outputs]`.
pub(crate) fn forward(level: Level, sizes: Sizes, x: &[f32], weight: &[f32], bias: Option<&[f32]>, relu: bool) -> Vec<f32> {
    let Sizes { batch, inputs, outputs } = sizes;
    assert_eq!(x.len(), batch * inputs);
    assert_eq!(weight.len(), inputs * outputs);
    assert!(bias.is_none_or(|bias| bias.len() == outputs));
    let mut y = vec![0.0; batch * outputs];
    let shared = Shared::new(&mut y);
    let width = level.run(Width);
    parallel::for_each(outputs.div_ceil(width), |panel| {
        level.run(ForwardPanel { sizes, x, weight, bias, relu, panel, y: shared });
    });
    y
}

struct Width;

impl WithSimd for Width {
    type Output = usize;

    #[inline(always)]
    fn with_simd<S: Simd>(self, _: S) -> usize {
        tile::width::<S>()
    }
}

struct ForwardPanel<'a> {
    sizes: Sizes,
    x: &'a [f32],
    weight: &'a [f32],
    bias: Option<&'a [f32]>,
    relu: bool,
    panel: usize,
    y: Shared<'a, f32>,
}

impl WithSimd for ForwardPanel<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { batch, inputs, outputs } = self.sizes;
        let width = tile::width::<S>();
        let first = self.panel * width;
        let used = width.min(outputs - first);

        // [inputs, width], one after another, so that the rows of the weights are read in order once.
        let mut columns = Scratch::take(inputs * width);
        for (packed, row) in columns.chunks_exact_mut(width).zip(self.weight.chunks_exact(outputs)) {
            copy(simd, &row[first..first + used], packed);
        }
        let mut bias = Scratch::zeroed(width);
        if let Some(all) = self.bias {
            bias[..used].copy_from_slice(&all[first..first + used]);
        }
        let bias = vectors::<S>(&bias);
        let zero = simd.splat_f32s(0.0);
        tile::product(
            simd,
            batch,
            Rows { data: self.x, row: inputs, step: 1, segment: 0 },
            Columns { data: &columns, step: width, segment: 0 },
            Sum { segments: 1, steps: inputs },
            |row, sums| {
                // SAFETY: no other panel has these columns.
                let y = unsafe { self.y.part(row * outputs + first, used) };
                let mut out = sums;
                for v in 0..tile::VECTORS {
                    out[v] = simd.add_f32s(sums[v], bias[v]);
                    if self.relu {
                        // As PyTorch: what is not below zero stays, NaN as well.
                        out[v] = simd.select_f32s(simd.less_than_f32s(out[v], zero), zero, out[v]);
                    }
                }
                store(simd, &out, y);
            },
        );
    }
}

/// The first vectors of a slice.
#[inline(always)]
pub(crate) fn vectors<S: Simd>(slice: &[f32]) -> [S::f32s; tile::VECTORS] {
    let head = S::as_simd_f32s(slice).0;
    std::array::from_fn(|v| head[v])
}

/// Stores as many floats of a tile's row as fit.
#[inline(always)]
pub(crate) fn store<S: Simd>(simd: S, row: &[S::f32s; tile::VECTORS], out: &mut [f32]) {
    for (vector, out) in row.iter().zip(out.chunks_mut(S::F32_LANES)) {
        simd.partial_store_f32s(out, *vector);
    }
}

/// Copies a tile's row, or as much of it as there is, followed by zeros.
#[inline(always)]
fn copy<S: Simd>(simd: S, from: &[f32], to: &mut [f32]) {
    let (to, _) = S::as_mut_simd_f32s(to);
    for (to, from) in to.iter_mut().zip(from.chunks(S::F32_LANES).chain(std::iter::repeat(&[][..]))) {
        *to = simd.partial_load_f32s(from);
    }
}

/// The gradients of [`forward`], for `dy` `[batch, outputs]`.
pub(crate) struct Gradients {
    /// `[batch, inputs]`, if asked for.
    pub(crate) x: Option<Vec<f32>>,
    /// `[inputs, outputs]`.
    pub(crate) weight: Vec<f32>,
    /// `[outputs]`.
    pub(crate) bias: Vec<f32>,
}

/// What [`backward`] needs.
#[derive(Clone, Copy)]
pub(crate) struct Backward<'a> {
    pub(crate) sizes: Sizes,
    pub(crate) x: &'a [f32],
    pub(crate) weight: &'a [f32],
    /// What forward gave, if a ReLU made it.
    pub(crate) y: Option<&'a [f32]>,
    pub(crate) dy: &'a [f32],
    pub(crate) wants_x: bool,
}

pub(crate) fn backward(level: Level, it: Backward<'_>) -> Gradients {
    let Sizes { batch, inputs, outputs } = it.sizes;
    assert_eq!(it.x.len(), batch * inputs);
    assert_eq!(it.weight.len(), inputs * outputs);
    assert_eq!(it.dy.len(), batch * outputs);
    assert!(it.y.is_none_or(|y| y.len() == it.dy.len()));
    let width = level.run(Width);
    let column_panels = outputs.div_ceil(width);
    let batch_panels = batch.div_ceil(width);

    let mut dx = vec![0.0; if it.wants_x { batch * inputs } else { 0 }];
    let mut dweight = vec![0.0; inputs * outputs];
    let mut dbias = vec![0.0; outputs];
    // [column panel, batch, width] and [batch panel, outputs, width].
    let mut by_column = Scratch::take(column_panels * batch * width);
    let mut by_batch = Scratch::take(if it.wants_x { batch_panels * outputs * width } else { 0 });
    {
        let (by_column, dbias) = (Shared::new(&mut by_column), Shared::new(&mut dbias));
        let by_batch = Shared::new(&mut by_batch);
        let batch_parts = if it.wants_x { batch_panels } else { 0 };
        parallel::for_each(column_panels + batch_parts, |task| {
            if task < batch_parts {
                // SAFETY: each task has a panel of its own.
                let panel = unsafe { by_batch.part(task * outputs * width, outputs * width) };
                level.run(|| pack_transposed(it, task * width, width, panel));
            } else {
                let task = task - batch_parts;
                let used = width.min(outputs - task * width);
                // SAFETY: as above.
                let (panel, dbias) = unsafe {
                    (by_column.part(task * batch * width, batch * width), dbias.part(task * width, used))
                };
                level.run(|| pack_columns(it, task * width, width, panel, dbias));
            }
        });
    }
    {
        let (dx, dweight) = (Shared::new(&mut dx), Shared::new(&mut dweight));
        let (by_column, by_batch) = (&*by_column, &*by_batch);
        let blocks = inputs.div_ceil(BLOCK);
        let x_tasks = if it.wants_x { batch_panels * blocks } else { 0 };
        parallel::for_each(x_tasks + blocks, |task| {
            if task < x_tasks {
                level.run(InputGradient { it, by_batch, panel: task / blocks, block: task % blocks, dx });
            } else {
                level.run(WeightGradient { it, by_column, block: task - x_tasks, dweight });
            }
        });
    }
    Gradients { x: it.wants_x.then_some(dx), weight: dweight, bias: dbias }
}

/// Inputs in a task: a multiple of every tile's height, so that no tile is low.
const BLOCK: usize = 84;

#[inline(always)]
fn masked(it: &Backward<'_>, at: usize) -> f32 {
    // As PyTorch: the gradient passes unless the output is zero or below.
    if it.y.is_some_and(|y| y[at] <= 0.0) { 0.0 } else { it.dy[at] }
}

#[inline(always)]
fn pack_columns(it: Backward<'_>, first: usize, width: usize, panel: &mut [f32], dbias: &mut [f32]) {
    let outputs = it.sizes.outputs;
    let used = dbias.len();
    for (image, packed) in panel.chunks_exact_mut(width).enumerate() {
        let range = image * outputs + first..image * outputs + first + used;
        let dy = &it.dy[range.clone()];
        match it.y {
            Some(y) => {
                for ((packed, dy), y) in packed.iter_mut().zip(dy).zip(&y[range]) {
                    *packed = if *y <= 0.0 { 0.0 } else { *dy };
                }
            }
            None => packed[..used].copy_from_slice(dy),
        }
        packed[used..].fill(0.0);
        for (sum, packed) in dbias.iter_mut().zip(&*packed) {
            *sum += packed;
        }
    }
}

#[inline(always)]
fn pack_transposed(it: Backward<'_>, first: usize, width: usize, panel: &mut [f32]) {
    let Sizes { batch, outputs, .. } = it.sizes;
    for lane in 0..width {
        if first + lane < batch {
            let row = (first + lane) * outputs;
            for (output, packed) in panel.chunks_exact_mut(width).enumerate() {
                packed[lane] = masked(&it, row + output);
            }
        } else {
            panel.chunks_exact_mut(width).for_each(|packed| packed[lane] = 0.0);
        }
    }
}

/// `dx` of one block of inputs and one panel of the batch, as `W dyᵀ`: the weights are read as they lie.
struct InputGradient<'a> {
    it: Backward<'a>,
    by_batch: &'a [f32],
    panel: usize,
    block: usize,
    dx: Shared<'a, f32>,
}

impl WithSimd for InputGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { batch, inputs, outputs } = self.it.sizes;
        let width = tile::width::<S>();
        let first = self.block * BLOCK;
        let rows = BLOCK.min(inputs - first);
        let mut transposed = Scratch::take(rows * width);
        tile::product(
            simd,
            rows,
            Rows { data: &self.it.weight[first * outputs..], row: outputs, step: 1, segment: 0 },
            Columns { data: &self.by_batch[self.panel * outputs * width..][..outputs * width], step: width, segment: 0 },
            Sum { segments: 1, steps: outputs },
            |row, sums| store(simd, &sums, &mut transposed[row * width..][..width]),
        );
        for lane in 0..width.min(batch - self.panel * width) {
            // SAFETY: no other task has these inputs of these images.
            let dx = unsafe { self.dx.part((self.panel * width + lane) * inputs + first, rows) };
            for (dx, row) in dx.iter_mut().zip(transposed.chunks_exact(width)) {
                *dx = row[lane];
            }
        }
    }
}

/// `dW` of one block of inputs, as `xᵀ dy`.
struct WeightGradient<'a> {
    it: Backward<'a>,
    by_column: &'a [f32],
    block: usize,
    dweight: Shared<'a, f32>,
}

impl WithSimd for WeightGradient<'_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Sizes { batch, inputs, outputs } = self.it.sizes;
        let width = tile::width::<S>();
        let first = self.block * BLOCK;
        let rows = BLOCK.min(inputs - first);
        // [batch, rows]: the block of x that every panel multiplies.
        let mut x = Scratch::take(batch * rows);
        for (packed, image) in x.chunks_exact_mut(rows).zip(self.it.x.chunks_exact(inputs)) {
            packed.copy_from_slice(&image[first..first + rows]);
        }
        for (panel, columns) in self.by_column.chunks_exact(batch * width).enumerate() {
            let used = width.min(outputs - panel * width);
            tile::product(
                simd,
                rows,
                Rows { data: &x, row: 1, step: rows, segment: 0 },
                Columns { data: columns, step: width, segment: 0 },
                Sum { segments: 1, steps: batch },
                |row, sums| {
                    // SAFETY: no other task has these rows.
                    let dweight = unsafe { self.dweight.part((first + row) * outputs + panel * width, used) };
                    store(simd, &sums, dweight);
                },
            );
        }
    }
}
