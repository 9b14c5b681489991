//! What curves show, of which images, and along what.

use std::fmt;

/// What a curve shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Quantity {
    /// Mean cross entropy over images, in nats; for train the objective, with label smoothing.
    Loss,
    /// Fraction of images that are classified correctly.
    Accuracy,
}

/// The images it was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The training images, each batch before its update: a mean over an epoch in which the weights change.
    Train,
    /// The validation images, after the epoch (protocol `validated`).
    Valid,
    /// The test images, after the epoch (protocol `assignment`).
    Test,
}

/// What a curve runs along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Against {
    /// Epochs, from 1.
    Epoch,
    /// Training steps, from 1.
    Step,
    /// Seconds of training steps so far.
    Seconds,
}

impl Quantity {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::Loss, Self::Accuracy];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Loss => "loss",
            Self::Accuracy => "accuracy",
        }
    }

    /// Its unit.
    pub(crate) fn unit(self) -> &'static str {
        match self {
            Self::Loss => "nats",
            Self::Accuracy => "fraction",
        }
    }
}

impl Split {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Train, Self::Valid, Self::Test];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Train => "train",
            Self::Valid => "valid",
            Self::Test => "test",
        }
    }
}

impl Against {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Epoch, Self::Step, Self::Seconds];

    /// Its name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Step => "step",
            Self::Seconds => "seconds",
        }
    }

    /// What an axis of it is labelled.
    pub(crate) fn axis(self) -> &'static str {
        match self {
            Self::Epoch => "epoch",
            Self::Step => "training step",
            Self::Seconds => "training time (s)",
        }
    }
}

impl fmt::Display for Quantity {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl fmt::Display for Against {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}
