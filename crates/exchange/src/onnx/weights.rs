//! The names that a run's weights have in its file.

use std::{
    collections::{HashMap, HashSet},
    fs,
};

use burn::{
    store::{ModuleStore, SafetensorsStore},
    tensor::{DType, TensorData},
};
use kindling_record::{RecordError, RunDirectory};

use super::{LOGITS, PIXELS, PROBABILITIES, transposed};
use crate::ExchangeError;

/// A tensor as the file has it.
#[derive(Clone)]
pub(super) struct Weight {
    pub(super) name: String,
    pub(super) dims: Vec<usize>,
    pub(super) bytes: Vec<u8>,
    /// Whether the network has it the other way round: a linear layer's is `[outputs, inputs]` in files.
    pub(super) is_turned: bool,
}

/// Shape and bytes.
type Content = (Vec<usize>, Vec<u8>);

/// The tensors of a weights file by what they hold, which is how a recording has them.
///
/// Where two hold the same, it does not matter which name is whose.
pub(super) struct Weights {
    found: HashMap<Content, Vec<Weight>>,
    used: HashSet<String>,
}

impl Weights {
    /// Reads those of a run.
    pub(super) fn of(directory: &RunDirectory) -> Result<Self, ExchangeError> {
        let path = directory.weights();
        let bytes = fs::read(&path).map_err(|source| RecordError::Io { path: path.clone(), source })?;
        let mut store = SafetensorsStore::from_bytes(Some(bytes));
        let mut found: HashMap<Content, Vec<Weight>> = HashMap::new();
        let tensors = store.get_all_tensors().map_err(|error| ExchangeError::file(&path, error))?;
        // One with the name of an input or output is a constant like any other.
        for tensor in tensors.values().filter(|tensor| ![PIXELS, LOGITS, PROBABILITIES].contains(&&*tensor.name)) {
            let bytes = tensor.to_bytes().map_err(|error| ExchangeError::file(&path, error))?;
            let (dims, bytes) = (tensor.shape.to_vec(), bytes.to_vec());
            let weight =
                Weight { name: tensor.name.clone(), dims: dims.clone(), bytes: bytes.clone(), is_turned: false };
            if let [rows, columns] = dims[..] {
                let turned = (vec![columns, rows], transposed(&bytes, 4, rows, columns));
                let weight = Weight { is_turned: true, ..weight.clone() };
                found.entry(turned).or_default().push(weight);
            }
            found.entry((dims, bytes)).or_default().push(weight);
        }
        Ok(Self { found, used: HashSet::new() })
    }

    /// The names of all.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.found.values().flatten().map(|weight| weight.name.as_str())
    }

    /// The tensor that holds `value`: one that was not found before and whose name ends with its role, if there is one.
    pub(super) fn find(&mut self, value: &TensorData, role: &str) -> Option<Weight> {
        // Files have their weights in f32; integers may have the same bytes.
        if value.dtype() != DType::F32 {
            return None;
        }
        let same = self.found.get(&(value.shape().to_vec(), value.as_bytes().to_vec()))?;
        let plays = |name: &str| name.rsplit('.').next() == Some(role);
        let weight = same.iter().min_by_key(|weight| (self.used.contains(&weight.name), !plays(&weight.name)))?.clone();
        self.used.insert(weight.name.clone());
        Some(weight)
    }
}
