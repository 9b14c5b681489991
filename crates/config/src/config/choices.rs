//! The values of a config's keys that have names.

use std::fmt;

use burn::tensor::FloatDType;
use kindling_data::Augmentation;
use serde::{Deserialize, Serialize};

use super::name_of;

/// The number type of weights, activations, gradients and the optimizer's state; losses are always in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Precision {
    /// Single: 24 significant bits.
    F32,
    /// Google Brain's half: the range of f32 with 8 significant bits.
    Bf16,
    /// IEEE half: 11 significant bits, and nothing above 65,504.
    F16,
}

impl Precision {
    /// All of them, the widest first.
    pub const ALL: [Self; 3] = [Self::F32, Self::Bf16, Self::F16];

    /// As tensors have it.
    #[must_use]
    pub fn dtype(self) -> FloatDType {
        match self {
            Self::F32 => FloatDType::F32,
            Self::Bf16 => FloatDType::BF16,
            Self::F16 => FloatDType::F16,
        }
    }
}

impl fmt::Display for Precision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&name_of(self))
    }
}

/// Where the images come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum DatasetName {
    /// Zalando's articles of clothing.
    FashionMnist,
    /// Any set in MNIST's format.
    Idx,
    /// Drawn shapes.
    Synthetic,
}

/// How the data is split and which metrics are reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// A twelfth of the training images is for validation; the epoch with the lowest validation loss is tested, once.
    Validated,
    /// All of them train; the test set is evaluated after each epoch and the last epoch reported, as the reference did.
    Assignment,
}

/// Order of the training images in an epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OrderName {
    /// Another order in each epoch, decided by the seed.
    Shuffled,
    /// As they stand in the file.
    File,
}

/// A random change of training images, drawn anew in each epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AugmentationName {
    /// Moved by up to two pixels in each direction.
    Shift,
    /// Mirrored left to right, every other time.
    Flip,
    /// A rectangle of it made background, every other time.
    Erase,
}

impl AugmentationName {
    /// As the loader has it.
    #[must_use]
    pub fn augmentation(self) -> Augmentation {
        match self {
            Self::Shift => Augmentation::Shift,
            Self::Flip => Augmentation::Flip,
            Self::Erase => Augmentation::Erase,
        }
    }
}

/// The update rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OptimizerName {
    /// Stochastic gradient descent.
    Sgd,
    /// The same with momentum, as PyTorch has it.
    Momentum,
    /// Kingma and Ba, <https://arxiv.org/abs/1412.6980>.
    Adam,
    /// Loshchilov and Hutter, <https://arxiv.org/abs/1711.05101>.
    Adamw,
    /// Jordan, <https://kellerjordan.github.io/posts/muon/>: hidden matrices; `AdamW` for everything else.
    Muon,
}

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ScheduleName {
    /// It stays the same.
    Constant,
    /// It drops by a factor every few epochs.
    Step,
    /// It falls to zero along a cosine.
    Cosine,
    /// It rises to its value and falls far below where it began, as PyTorch's `OneCycleLR`.
    OneCycle,
}

/// What early stopping watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoppingMetric {
    /// The loss on the validation images falls.
    ValidLoss,
    /// The accuracy on the validation images rises.
    ValidAccuracy,
    /// The loss on the test images falls.
    TestLoss,
}
