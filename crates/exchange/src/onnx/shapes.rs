//! Shapes and parts of tensors whose number of images is open.

use burn::{
    backend::ir::{OperationIr, SliceAssignOpIr, TensorIr},
    tensor::Slice,
};

use super::{
    PIXELS,
    graph::int,
    lower::Lowering,
    trace::{Size, Trace},
};
use crate::ExchangeError;

impl Lowering<'_> {
    /// The name of a shape; in one that a tensor is reshaped to (`infers`), a size can follow from the others.
    pub(super) fn shape(&mut self, sizes: &[Size], infers: bool) -> String {
        let count = sizes.iter().filter(|size| matches!(size, Size::PerImage(_))).count();
        if count == 0 || (infers && count == 1) {
            let fixed = |size: &Size| if let Size::Fixed(size) = size { *size as i64 } else { -1 };
            return self.graph.integers(&sizes.iter().map(fixed).collect::<Vec<_>>());
        }
        let batch = self.batch.take().unwrap_or_else(|| {
            let first = vec![int("start", 0), int("end", 1)];
            self.graph.node("Shape", &[PIXELS], first)
        });
        let parts: Vec<_> = sizes
            .iter()
            .map(|size| match size {
                Size::Fixed(size) => self.graph.integers(&[*size as i64]),
                Size::PerImage(1) => batch.clone(),
                Size::PerImage(each) => {
                    let each = self.graph.integers(&[*each as i64]);
                    self.graph.node("Mul", &[&batch, &each], Vec::new())
                }
            })
            .collect();
        self.batch = Some(batch);
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        self.graph.node("Concat", &parts, vec![int("axis", 0)])
    }

    /// Start, end and step on each axis that a slice does not take whole.
    pub(super) fn ranges(
        &self,
        x: &TensorIr,
        ranges: &[Slice],
        out: &TensorIr,
    ) -> Result<Vec<(usize, [i64; 3])>, ExchangeError> {
        let (sizes, others) = (self.trace.sizes(x), self.trace.other_ranges(out));
        let mut found = Vec::new();
        for (axis, range) in ranges.iter().enumerate() {
            let size = x.shape[axis];
            let (range_here, step) = (range.to_range(size), range.step as i64);
            let other_size = Trace::other(sizes[axis]);
            let there = others.get(axis).map_or_else(|| range_here.clone(), |other| other.to_range(other_size));
            let is_whole = (range_here == (0..size) && there == (0..other_size), step);
            let (start, end) = (range_here.start as i64, range_here.end as i64);
            found.push(match is_whole {
                (true, 1) => continue,
                (true, 2..) => (axis, [0, i64::MAX, step]),
                (true, _) => (axis, [-1, i64::MIN, step]),
                (false, 1..) if range_here == there => (axis, [start, end, step]),
                (false, _) if range_here == there => {
                    (axis, [end - 1, if start == 0 { i64::MIN } else { start - 1 }, step])
                }
                _ => return Err(ExchangeError::OnnxBatch { what: "takes other images in `Slice`".to_owned() }),
            });
        }
        Ok(found)
    }

    pub(super) fn sliced(&mut self, x: &str, ranges: &[(usize, [i64; 3])]) -> String {
        if ranges.is_empty() {
            return x.to_owned();
        }
        let part = |part: usize| ranges.iter().map(|(_, range)| range[part]).collect::<Vec<_>>();
        let axes: Vec<_> = ranges.iter().map(|(axis, _)| *axis as i64).collect();
        let [starts, ends, axes, steps] = [part(0), part(1), axes, part(2)].map(|part| self.graph.integers(&part));
        self.graph.node("Slice", &[x, &starts, &ends, &axes, &steps], Vec::new())
    }

    /// What is before the range, the value, and what is behind.
    pub(super) fn assigned(&mut self, it: &SliceAssignOpIr, operation: &OperationIr) -> Result<(), ExchangeError> {
        let ranges = self.ranges(&it.tensor, &it.ranges, &it.out)?;
        let (x, value) = (self.operand(&it.tensor), self.operand(&it.value));
        let (axis, start, end) = match ranges[..] {
            [] => return self.alias(&it.out, value),
            [(axis, [start, end, 1])] => (axis, start, end),
            _ => return Err(self.unknown(operation)),
        };
        let mut parts = vec![value];
        if start > 0 {
            parts.insert(0, self.sliced(&x, &[(axis, [0, start, 1])]));
        }
        if (end as usize) < it.tensor.shape[axis] {
            parts.push(self.sliced(&x, &[(axis, [end, i64::MAX, 1])]));
        }
        let parts: Vec<_> = parts.iter().map(String::as_str).collect();
        self.set(&it.out, "Concat", &parts, vec![int("axis", axis)])
    }
}
