//! Pages on this machine.

mod play;
mod server;
mod watch;
