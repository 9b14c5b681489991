use burn::tensor::{Tensor, kind::Basic};

/// What can be written into the memory of another one of its kind: tensors, and batches that are made of them.
pub trait FixedBatch: Clone {
    /// The same numbers in memory that nothing else has.
    #[must_use]
    fn in_own_memory(&self) -> Self;

    /// Writes the numbers of `other` into this memory, where every later read finds them; false where that cannot be: for
    /// another shape, and where something else shares the memory.
    #[must_use]
    fn overwrite(&mut self, other: &Self) -> bool;
}

impl<const D: usize, K: Basic> FixedBatch for Tensor<D, K> {
    fn in_own_memory(&self) -> Self {
        let empty = Self::empty(self.dims(), (&self.device(), self.dtype()));
        empty.slice_assign(self.dims().map(|size| 0..size), self.clone())
    }

    fn overwrite(&mut self, other: &Self) -> bool {
        let is_possible = self.dims() == other.dims() && self.can_mut();
        if is_possible {
            self.inplace(|fixed| fixed.slice_assign(other.dims().map(|size| 0..size), other.clone()));
        }
        is_possible
    }
}

impl<A: FixedBatch, B: FixedBatch> FixedBatch for (A, B) {
    fn in_own_memory(&self) -> Self {
        (self.0.in_own_memory(), self.1.in_own_memory())
    }

    fn overwrite(&mut self, other: &Self) -> bool {
        self.0.overwrite(&other.0) && self.1.overwrite(&other.1)
    }
}

impl<A: FixedBatch> FixedBatch for Option<A> {
    fn in_own_memory(&self) -> Self {
        self.as_ref().map(A::in_own_memory)
    }

    fn overwrite(&mut self, other: &Self) -> bool {
        match (self, other) {
            (Some(fixed), Some(other)) => fixed.overwrite(other),
            (None, None) => true,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Device, Int};

    use super::*;

    #[test]
    fn a_batch_is_written_into_its_own_memory_only_where_shape_and_owner_allow_it() {
        let device = Device::flex();
        let batch = |first: f32, count: usize| {
            let images = Tensor::<1>::full([count], first, &device);
            (images, Some(Tensor::<1, Int>::full([count], first as i32, &device)))
        };
        let given = batch(1.0, 3);
        let mut fixed = given.in_own_memory();
        assert!(fixed.overwrite(&batch(2.0, 3)));
        let numbers = |(images, targets): &(Tensor<1>, Option<Tensor<1, Int>>)| {
            let targets = targets.as_ref().unwrap().clone().into_data().iter::<f64>().collect::<Vec<_>>();
            [images.clone().into_data().iter::<f64>().collect::<Vec<_>>(), targets]
        };
        assert_eq!(numbers(&fixed), [[2.0; 3]; 2]);
        assert_eq!(numbers(&given), [[1.0; 3]; 2]);
        assert!(!fixed.overwrite(&batch(3.0, 2)) && !fixed.overwrite(&(batch(3.0, 3).0, None)));
        let shared = fixed.0.clone();
        assert!(!fixed.overwrite(&batch(4.0, 3)));
        drop(shared);
        assert!(fixed.overwrite(&batch(4.0, 3)));
        assert_eq!(numbers(&fixed), [[4.0; 3]; 2]);
    }
}
