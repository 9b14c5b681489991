//! The dashboard in a pseudo-terminal: what is on its screen, and that every way out leaves the terminal as it was.

use std::{
    io::{Read, Write},
    path::Path,
    sync::{Arc, Mutex},
    thread,
    time::{Duration, Instant},
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::program::{VARIABLES, kindling, only_run, record, text};

/// A program in a terminal of 100 columns and 30 rows.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    screen: Arc<Mutex<vt100::Parser>>,
    master: Box<dyn MasterPty + Send>,
    /// Echo, line mode, signals and so on, before the program starts.
    modes: String,
    reader: thread::JoinHandle<()>,
}

fn modes(master: &dyn MasterPty) -> String {
    format!("{:?}", master.get_termios().unwrap())
}

impl Terminal {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let size = PtySize { rows: 30, cols: 100, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_kindling"));
        command.args(arguments);
        command.cwd(directory);
        command.env("TERM", "xterm-256color");
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        let modes = modes(&*pair.master);
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let screen = Arc::new(Mutex::new(vt100::Parser::new(30, 100, 200)));
        let (mut output, shown) = (pair.master.try_clone_reader().unwrap(), screen.clone());
        let reader = thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = output.read(&mut buffer) {
                shown.lock().unwrap().process(&buffer[..count]);
            }
        });
        Self { child, keyboard: pair.master.take_writer().unwrap(), screen, master: pair.master, modes, reader }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen shows all of `expected`.
    fn wait_for(&self, expected: &[&str]) {
        let deadline = Instant::now() + Duration::from_mins(1);
        loop {
            let contents = self.screen.lock().unwrap().screen().contents();
            if expected.iter().all(|part| contents.contains(part)) {
                return;
            }
            assert!(Instant::now() < deadline, "{expected:?} never appeared on:\n{contents}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits for the end and returns the exit code and what is left on the screen; checks that it is sane.
    fn end(mut self) -> (u32, String) {
        let code = self.child.wait().unwrap().exit_code();
        assert_eq!(modes(&*self.master), self.modes, "the terminal is in another mode than before");
        // The reader ends when nobody has the terminal open any more: it has seen everything then.
        self.reader.join().unwrap();
        let parser = self.screen.lock().unwrap();
        let screen = parser.screen();
        assert!(!screen.alternate_screen(), "the dashboard's screen is still there");
        assert!(!screen.hide_cursor(), "the cursor is gone");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None, "the mouse is still captured");
        (code, screen.contents())
    }
}

const TRAIN: [&str; 8] = ["train", "mlp", "--dataset", "synthetic", "--epochs", "400", "--dashboard", "always"];

fn shown_in_training(place: &Path, arguments: &[&str]) -> Terminal {
    let terminal = Terminal::start(place, arguments);
    terminal.wait_for(&["Loss", "Accuracy", "Learning rate", "Images per second", "Epochs", "Valid"]);
    terminal
}

#[test]
fn quitting_the_dashboard_saves_the_run_and_it_can_be_resumed_in_it() {
    let place = tempfile::tempdir().unwrap();
    let mut terminal = shown_in_training(place.path(), &TRAIN);
    terminal.press("q");
    terminal.wait_for(&["Stop the training"]);
    terminal.press("s");
    let (code, left) = terminal.end();
    assert_eq!(code, 130, "{left}");
    assert!(left.contains("go on with: just resume runs/mlp-"), "{left}");
    let run = only_run(place.path());
    assert_eq!(record(&run).status.to_string(), "interrupted");
    let steps = || kindling_record::read_steps(&run.join("steps.jsonl")).unwrap().len();
    let before = steps();

    let mut resumed = shown_in_training(place.path(), &["resume", "mlp", "--dashboard", "always"]);
    // Ctrl-C, which raw mode makes a key that the dashboard alone would ignore.
    resumed.press("\u{3}");
    let (code, left) = resumed.end();
    assert_eq!(code, 130, "{left}");
    assert_eq!(record(&run).status.to_string(), "interrupted");
    assert!(steps() > before);
}

#[test]
fn a_signal_under_the_dashboard_saves_the_run_as_well() {
    let place = tempfile::tempdir().unwrap();
    let terminal = shown_in_training(place.path(), &TRAIN);
    let id = terminal.child.process_id().unwrap().to_string();
    assert!(std::process::Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    let (code, left) = terminal.end();
    assert_eq!(code, 130, "{left}");
    assert_eq!(record(&only_run(place.path())).status.to_string(), "interrupted");
}

#[test]
fn killing_the_training_in_the_dashboard_leaves_the_last_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let mut terminal = shown_in_training(place.path(), &TRAIN);
    terminal.press("q");
    terminal.wait_for(&["Kill the program"]);
    terminal.press("k");
    let (code, left) = terminal.end();
    assert_eq!(code, 130, "{left}");
    let run = only_run(place.path());
    assert_eq!(record(&run).status.to_string(), "interrupted");
    assert!(run.join("checkpoints/index.json").exists());
}

#[test]
fn a_failure_under_the_dashboard_gives_the_terminal_back_and_is_told() {
    let place = tempfile::tempdir().unwrap();
    let terminal = shown_in_training(place.path(), &TRAIN);
    // A file where the next checkpoint's directory has to be made.
    let checkpoints = only_run(place.path()).join("checkpoints");
    // At once, whatever is being written into it.
    std::fs::rename(&checkpoints, place.path().join("elsewhere")).unwrap();
    std::fs::write(&checkpoints, "").unwrap();
    let (code, left) = terminal.end();
    assert_eq!(code, 1, "{left}");
    assert!(left.contains("checkpoints"), "{left}");
    assert_eq!(record(&only_run(place.path())).status.to_string(), "failed");
}

#[test]
fn without_a_dashboard_a_terminal_shows_a_bar_and_a_line_for_each_epoch() {
    let place = tempfile::tempdir().unwrap();
    let arguments = [&TRAIN[..4], &["--epochs", "40", "--dashboard", "never"]].concat();
    let terminal = Terminal::start(place.path(), &arguments);
    terminal.wait_for(&["epoch  1 of 40: train loss", "images,", "left"]);
    let (code, left) = terminal.end();
    assert_eq!(code, 0, "{left}");
    assert!(left.contains("epoch 40 of 40") && left.contains("test accuracy"), "{left}");
    let piped = kindling(place.path(), &[&arguments[..4], &["--epochs", "1"]].concat());
    assert!(text(&piped.stderr).contains("epoch  1 of 1: train loss"));
    assert!(!text(&piped.stderr).contains('\u{1b}'), "no control characters in a pipe");
}
