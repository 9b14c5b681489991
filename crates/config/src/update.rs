//! The sections of how weights are updated: the optimizer and the schedule of its learning rate.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    ConfigError, Range,
    declare::{Field, Typed, Variant, object},
    kind::Kind,
};

variants! {
    /// The update rule; all but [`Muon`] have PyTorch's semantics and defaults.
    Optimizer {
        /// Learning rate, before the schedule.
        learning_rate: f64, NotNegative, Some("learning-rate");
        /// Momentum.
        momentum: f64, Fraction, Some("momentum");
        /// Whether momentum is Nesterov's; that of muon always is.
        nesterov: bool, Any, Some("nesterov");
        /// Decay of the first moment.
        beta_1: f64, Fraction, None;
        /// Decay of the second moment.
        beta_2: f64, Fraction, None;
        /// Added to the denominator.
        epsilon: f64, Positive, None;
        /// Weight decay: decoupled with adamw and muon, otherwise added to the gradient.
        weight_decay: f64, NotNegative, Some("weight-decay");
        /// Whether norms and biases (parameters of one dimension) decay as well.
        decay_biases: bool, Any, Some("decay-biases");
        /// Factor of the learning rate of norms and biases (parameters of one dimension).
        bias_rate_factor: f64, NotNegative, None;
        /// Learning rate of AdamW, which trains what muon does not.
        adamw_learning_rate: f64, NotNegative, Some("adamw-learning-rate");
        /// How muon's step depends on the matrix: moonshot's is as long as one of AdamW, jordan's is the author's.
        scaling: MuonScaling, Any, None;
        /// What trains the filters of convolutions: adamw; muon; or normalized-muon, which brings each layer's filters to
        /// the author's norm before each step.
        filters: MuonFilters, Any, None;
    }
    /// Stochastic gradient descent.
    Sgd = "sgd" { learning_rate: 0.1, weight_decay: 0.0, decay_biases: true, bias_rate_factor: 1.0 }
    /// Stochastic gradient descent with momentum, which multiplies the steps by up to `1 / (1 - momentum)`.
    Momentum = "momentum" {
        learning_rate: 0.01, momentum: 0.9, nesterov: false, weight_decay: 0.0, decay_biases: true, bias_rate_factor: 1.0
    }
    /// Kingma and Ba, <https://arxiv.org/abs/1412.6980>.
    Adam = "adam" {
        learning_rate: 0.001, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.0, decay_biases: true,
        bias_rate_factor: 1.0
    }
    /// Loshchilov and Hutter, <https://arxiv.org/abs/1711.05101>.
    Adamw = "adamw" {
        learning_rate: 0.001, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, weight_decay: 0.01, decay_biases: true,
        bias_rate_factor: 1.0
    }
    /// Jordan, <https://kellerjordan.github.io/posts/muon/>: hidden matrices; `AdamW` for everything else.
    Muon = "muon" {
        learning_rate: 0.001, momentum: 0.95, weight_decay: 0.01, decay_biases: true, bias_rate_factor: 1.0,
        adamw_learning_rate: 0.001, beta_1: 0.9, beta_2: 0.999, epsilon: 1e-8, scaling: MuonScaling::Moonshot,
        filters: MuonFilters::Adamw
    }
}

names! {
    /// By how much Muon multiplies a matrix of orthonormal rows or columns, beside the learning rate.
    MuonScaling {
        /// 0.2 √max(rows, columns), so that a step is as long as one of AdamW: <https://arxiv.org/abs/2502.16982>.
        Moonshot = "moonshot",
        /// √max(1, outputs / inputs): <https://kellerjordan.github.io/posts/muon/>.
        Jordan = "jordan",
    }
}

names! {
    /// What trains the filters of convolutions where Muon trains the hidden matrices.
    MuonFilters {
        /// `AdamW`, as everything else.
        Adamw = "adamw",
        /// Muon, each layer's as a matrix of `[outputs, inputs * height * width]`.
        Muon = "muon",
        /// Muon, which brings each layer's to the Frobenius norm √outputs before each step, as `airbench94_muon.py` in
        /// KellerJordan/cifar10-airbench does.
        NormalizedMuon = "normalized-muon",
    }
}

impl Optimizer {
    /// The learning rate, before the schedule.
    #[must_use]
    pub fn learning_rate(&self) -> f64 {
        match self {
            Self::Sgd(Sgd { learning_rate, .. })
            | Self::Momentum(Momentum { learning_rate, .. })
            | Self::Adam(Adam { learning_rate, .. })
            | Self::Adamw(Adamw { learning_rate, .. })
            | Self::Muon(Muon { learning_rate, .. }) => *learning_rate,
        }
    }

    /// Factor of the learning rate of norms and biases.
    #[must_use]
    pub fn bias_rate_factor(&self) -> f64 {
        match self {
            Self::Sgd(Sgd { bias_rate_factor, .. })
            | Self::Momentum(Momentum { bias_rate_factor, .. })
            | Self::Adam(Adam { bias_rate_factor, .. })
            | Self::Adamw(Adamw { bias_rate_factor, .. })
            | Self::Muon(Muon { bias_rate_factor, .. }) => *bias_rate_factor,
        }
    }
}

variants! {
    /// How the learning rate changes.
    Schedule {
        /// Epochs over which the learning rate rises from zero.
        warm_up_epochs: usize, NotNegative, Some("warm-up-epochs");
        /// Epochs between the drops.
        step_epochs: usize, AtLeastOne, Some("step-epochs");
        /// Factor of the learning rate at each drop.
        step_factor: f64, Positive, Some("step-factor");
        /// Epochs until the first restart.
        restart_epochs: usize, AtLeastOne, Some("restart-epochs");
        /// By how much longer the epochs from one restart to the next get each time.
        restart_factor: usize, AtLeastOne, None;
    }
    /// The learning rate stays the same.
    Constant = "constant" { warm_up_epochs: 0 }
    /// The learning rate drops by a factor every few epochs.
    Step = "step" { warm_up_epochs: 0, step_epochs: 5, step_factor: 0.1 }
    /// The learning rate falls to zero along a cosine.
    Cosine = "cosine" { warm_up_epochs: 0 }
    /// The learning rate falls to zero along a line.
    Linear = "linear" { warm_up_epochs: 0 }
    /// The learning rate falls to zero along a cosine, and again from the start; Loshchilov and Hutter,
    /// <https://arxiv.org/abs/1608.03983>, as PyTorch's `CosineAnnealingWarmRestarts`.
    WarmRestarts = "warm-restarts" { warm_up_epochs: 0, restart_epochs: 10, restart_factor: 2 }
    /// The learning rate rises to its value and falls far below where it began, as PyTorch's `OneCycleLR`.
    OneCycle = "one-cycle" {}
}

impl Schedule {
    /// Epochs over which the learning rate rises from zero; 0 for `one-cycle`, which has a warm-up of its own.
    #[must_use]
    pub fn warm_up_epochs(&self) -> usize {
        match self {
            Self::Constant(Constant { warm_up_epochs })
            | Self::Step(Step { warm_up_epochs, .. })
            | Self::Cosine(Cosine { warm_up_epochs })
            | Self::Linear(Linear { warm_up_epochs })
            | Self::WarmRestarts(WarmRestarts { warm_up_epochs, .. }) => *warm_up_epochs,
            Self::OneCycle(OneCycle {}) => 0,
        }
    }
}
