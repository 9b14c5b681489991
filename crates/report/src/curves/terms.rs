//! Which samples curves are of, and along what.

use std::fmt;

/// The samples it was measured on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Split {
    /// The training samples, each batch before its update: a mean over an epoch in which the weights change.
    Train,
    /// The validation samples, after the epoch.
    Valid,
    /// The test samples, after the epoch.
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
