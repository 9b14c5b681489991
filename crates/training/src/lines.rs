//! The plainest progress: a line on standard error for each epoch.

use std::{
    io::{Write, stderr},
    time::Instant,
};

use burn::train::Interrupter;

use crate::{Event, Host, Place, Silent};

/// A run at `place` that shows a line for each epoch.
pub(crate) fn host(place: Place) -> Host {
    Host {
        place,
        interrupter: Interrupter::new(),
        renderer: Box::new(|_| Box::new(Silent)),
        on_event: Box::new(|event| {
            // Where standard error is closed, the run continues.
            let _ = match event {
                Event::Epoch { record, epochs } => {
                    writeln!(stderr(), "epoch {:>2} of {epochs}: {record}", record.epoch)
                }
                Event::DamagedCheckpoint { path, message, instead } => {
                    writeln!(stderr(), "{}: {message}; resuming from {}", path.display(), instead.display())
                }
                Event::Compiling => writeln!(stderr(), "compiling kernels"),
                _ => Ok(()),
            };
        }),
        program_start: Instant::now(),
    }
}
