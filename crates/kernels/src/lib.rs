//! Fused training operations for CPUs, as a backend extension of Burn.
