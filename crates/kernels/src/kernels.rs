use std::{
    fmt,
    str::FromStr,
    sync::atomic::{AtomicBool, Ordering},
};

static COMPOSED: AtomicBool = AtomicBool::new(false);

/// Which operations the program uses, for comparison.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kernels {
    /// This crate's, where a backend has them.
    #[default]
    Auto,
    /// Burn's own, composed.
    Composed,
}

impl Kernels {
    /// Both, the default first.
    pub const ALL: [Self; 2] = [Self::Auto, Self::Composed];

    /// What the whole program uses from now on.
    pub fn choose(self) {
        COMPOSED.store(self == Self::Composed, Ordering::Relaxed);
    }

    /// What the program uses.
    #[must_use]
    pub fn chosen() -> Self {
        if COMPOSED.load(Ordering::Relaxed) { Self::Composed } else { Self::Auto }
    }

    /// The name as it is typed.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Composed => "composed",
        }
    }
}

impl fmt::Display for Kernels {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

impl FromStr for Kernels {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|kernels| kernels.as_str() == name)
            .ok_or_else(|| format!("expected auto or composed, found `{name}`"))
    }
}
