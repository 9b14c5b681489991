use thiserror::Error;

/// What can go wrong between runs and other programs.
#[derive(Debug, Error)]
pub enum ExchangeError {}
