use std::{fmt, sync::OnceLock};

use pulp::{Arch, Simd, WithSimd};

use super::tile;

/// What of the CPU's vector instructions the operations use.
///
/// Everything is compiled once for each level from one source, and the best that the CPU has is chosen when the program
/// runs. Levels differ in rounding, as their vectors differ in length; the number of threads changes nothing.
#[derive(Clone, Copy, Debug)]
pub struct Level(Arch);

impl Level {
    /// The best of this CPU.
    #[must_use]
    pub fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self(Arch::new()))
    }

    /// All that this CPU has, the best last.
    #[must_use]
    pub fn available() -> Vec<Self> {
        let mut levels = vec![Self(Arch::Scalar)];
        #[cfg(target_arch = "x86_64")]
        levels.extend(pulp::x86::V3::try_new().map(|simd| Self(Arch::V3(simd))));
        #[cfg(target_arch = "x86_64")]
        levels.extend(pulp::x86::V4::try_new().map(|simd| Self(Arch::V4(simd))));
        #[cfg(target_arch = "aarch64")]
        levels.extend(pulp::aarch64::Neon::try_new().map(|simd| Self(Arch::Neon(simd))));
        levels
    }

    /// Runs `work` compiled for this level.
    #[inline(always)]
    pub(crate) fn run<W: WithSimd>(self, work: W) -> W::Output {
        self.0.dispatch(work)
    }

    /// Floats in a tile's row.
    pub(crate) fn width(self) -> usize {
        struct Width;
        impl WithSimd for Width {
            type Output = usize;

            #[inline(always)]
            fn with_simd<S: Simd>(self, _: S) -> usize {
                tile::width::<S>()
            }
        }
        self.run(Width)
    }

    /// Runs a closure compiled for this level, for loops that the compiler turns into vectors itself. It has to be marked
    /// `#[inline(always)]`: on its own it would be compiled for the program's level.
    #[inline(always)]
    pub(crate) fn vectorize(self, body: impl FnMut()) {
        struct Body<F>(F);
        impl<F: FnMut()> WithSimd for Body<F> {
            type Output = ();

            #[inline(always)]
            fn with_simd<S: Simd>(mut self, _: S) {
                (self.0)();
            }
        }
        self.run(Body(body));
    }
}

impl fmt::Display for Level {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self.0 {
            Arch::Scalar => "scalar",
            #[cfg(target_arch = "x86_64")]
            Arch::V3(_) => "AVX2",
            #[cfg(target_arch = "x86_64")]
            Arch::V4(_) => "AVX-512",
            #[cfg(target_arch = "aarch64")]
            Arch::Neon(_) => "NEON",
            _ => "other",
        })
    }
}
