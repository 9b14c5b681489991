//! The program in a pseudo-terminal: the dashboard's screen, that every way out leaves the terminal as it was, and that
//! a terminal without escape sequences gets none.

use std::{
    fs,
    io::{Read, Write},
    path::Path,
    sync::{Arc, Condvar, Mutex},
    thread,
    time::{Duration, Instant},
};

use portable_pty::{Child, CommandBuilder, MasterPty, PtySize, native_pty_system};

use crate::program::{VARIABLES, kindling, only_run, record, text, with_small_files};

/// How long a condition may take: on a busy machine a hundred times what it takes on an idle one.
const PATIENCE: Duration = Duration::from_mins(5);

/// What makes a terminal show the dashboard: its own screen.
const DASHBOARD: &str = "\u{1b}[?1049h";

/// A program in a terminal of 100 columns and 30 rows.
struct Terminal {
    child: Box<dyn Child + Send + Sync>,
    keyboard: Box<dyn Write + Send>,
    shown: Arc<(Mutex<Shown>, Condvar)>,
    master: Box<dyn MasterPty + Send>,
    /// Echo, line mode, signals and so on, before the program starts.
    modes: String,
    reader: thread::JoinHandle<()>,
}

/// What the program has written so far.
struct Shown {
    screen: vt100::Parser,
    all: Vec<u8>,
    is_over: bool,
}

/// How a program ended.
struct End {
    code: u32,
    /// What is left on the screen.
    left: String,
    /// Everything that it wrote.
    all: String,
}

fn modes(master: &dyn MasterPty) -> String {
    format!("{:?}", master.get_termios().unwrap())
}

impl Terminal {
    fn start(directory: &Path, arguments: &[&str]) -> Self {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_kindling"));
        command.args(arguments);
        Self::spawn(directory, command, &[])
    }

    /// Starts a program with these variables changed: set, or taken away.
    fn spawn(directory: &Path, mut command: CommandBuilder, variables: &[(&str, Option<&str>)]) -> Self {
        let size = PtySize { rows: 30, cols: 100, pixel_width: 0, pixel_height: 0 };
        let pair = native_pty_system().openpty(size).unwrap();
        command.cwd(directory);
        for variable in VARIABLES {
            command.env_remove(variable);
        }
        command.env("TERM", "xterm-256color");
        for (name, value) in variables {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            }
        }
        let modes = modes(&*pair.master);
        let child = pair.slave.spawn_command(command).unwrap();
        drop(pair.slave);
        let screen = vt100::Parser::new(30, 100, 200);
        let shown = Arc::new((Mutex::new(Shown { screen, all: Vec::new(), is_over: false }), Condvar::new()));
        let mut output = pair.master.try_clone_reader().unwrap();
        let reader = thread::spawn({
            let shown = shown.clone();
            move || {
                let (shown, changed) = &*shown;
                let mut buffer = [0; 4096];
                loop {
                    let count = output.read(&mut buffer).unwrap_or(0);
                    let mut shown = shown.lock().unwrap();
                    shown.screen.process(&buffer[..count]);
                    shown.all.extend(&buffer[..count]);
                    shown.is_over = count == 0;
                    changed.notify_all();
                    if shown.is_over {
                        return;
                    }
                }
            }
        });
        Self { child, keyboard: pair.master.take_writer().unwrap(), shown, master: pair.master, modes, reader }
    }

    fn press(&mut self, keys: &str) {
        self.keyboard.write_all(keys.as_bytes()).unwrap();
    }

    /// Waits until the screen shows all of `expected`.
    fn wait_for(&self, expected: &[&str]) {
        let is_there = |shown: &Shown| {
            let contents = shown.screen.screen().contents();
            expected.iter().all(|part| contents.contains(part))
        };
        let (shown, changed) = &*self.shown;
        let waits = |shown: &mut Shown| !shown.is_over && !is_there(shown);
        let (shown, _) = changed.wait_timeout_while(shown.lock().unwrap(), PATIENCE, waits).unwrap();
        assert!(is_there(&shown), "{expected:?} never appeared on:\n{}", shown.screen.screen().contents());
    }

    /// Waits for the end, and checks that it leaves the terminal sane.
    fn end(mut self) -> End {
        let code = self.child.wait().unwrap().exit_code();
        assert_eq!(modes(&*self.master), self.modes, "the terminal is in another mode than before");
        // The reader ends when nobody has the terminal open any more: it has seen everything then.
        self.reader.join().unwrap();
        let shown = self.shown.0.lock().unwrap();
        let screen = shown.screen.screen();
        assert!(!screen.alternate_screen(), "the dashboard's screen is still there");
        assert!(!screen.hide_cursor(), "the cursor is gone");
        assert_eq!(screen.mouse_protocol_mode(), vt100::MouseProtocolMode::None, "the mouse is still captured");
        End { code, left: screen.contents(), all: text(&shown.all) }
    }
}

/// A training that does not end before it is told to.
const TRAIN: [&str; 8] = ["train", "mlp", "--dataset", "synthetic", "--epochs", "1000000", "--dashboard", "always"];

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
    let End { code, left, .. } = terminal.end();
    assert_eq!(code, 130, "{left}");
    assert!(left.contains("just resume runs/mlp-"), "{left}");
    let run = only_run(place.path());
    assert_eq!(record(&run).status.to_string(), "interrupted");
    let steps = || kindling_record::read_steps(&run.join("steps.jsonl")).unwrap().len();
    let before = steps();

    let mut resumed = shown_in_training(place.path(), &["resume", "mlp", "--dashboard", "always"]);
    // Ctrl-C, which raw mode makes a key that the dashboard alone would ignore.
    resumed.press("\u{3}");
    let End { code, left, .. } = resumed.end();
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
    let End { code, left, .. } = terminal.end();
    assert_eq!(code, 130, "{left}");
    assert_eq!(record(&only_run(place.path())).status.to_string(), "interrupted");
}

#[test]
fn killing_the_training_in_the_dashboard_leaves_the_last_checkpoint() {
    let place = tempfile::tempdir().unwrap();
    let mut terminal = shown_in_training(place.path(), &TRAIN);
    let index = only_run(place.path()).join("checkpoints/index.json");
    let deadline = Instant::now() + PATIENCE;
    while !index.exists() {
        assert!(Instant::now() < deadline, "no checkpoint appeared");
        thread::sleep(Duration::from_millis(5));
    }
    terminal.press("q");
    terminal.wait_for(&["Kill the program"]);
    terminal.press("k");
    let End { code, left, .. } = terminal.end();
    assert_eq!(code, 130, "{left}");
    assert_eq!(record(&only_run(place.path())).status.to_string(), "interrupted");
    assert!(index.exists());
}

#[test]
fn a_failure_under_the_dashboard_gives_the_terminal_back_and_is_told() {
    let place = tempfile::tempdir().unwrap();
    let mut command = CommandBuilder::new("sh");
    // The weights in the first checkpoint are 2.6 MB.
    command.args(["-c", &with_small_files(1024), env!("CARGO_BIN_EXE_kindling")]);
    command.args(TRAIN);
    let End { code, left, all } = Terminal::spawn(place.path(), command, &[]).end();
    assert_eq!(code, 1, "{left}");
    assert!(all.contains(DASHBOARD), "there was no dashboard: {all}");
    assert!(all.contains("checkpoints") && all.contains("File too large"), "{all}");
    assert_eq!(record(&only_run(place.path())).status.to_string(), "failed");
}

#[test]
fn without_a_dashboard_a_terminal_shows_a_bar_and_a_line_for_each_epoch() {
    let place = tempfile::tempdir().unwrap();
    let arguments = [&TRAIN[..4], &["--epochs", "2", "--dashboard", "never"]].concat();
    let End { code, left, all } = Terminal::start(place.path(), &arguments).end();
    assert_eq!(code, 0, "{left}");
    for part in ["epoch 1 of 2, train ", " of 5,505 samples, ", "s left"] {
        assert!(all.contains(part), "{part}: {all}");
    }
    for part in ["epoch  1 of 2: train loss", "epoch  2 of 2: train loss", "test accuracy"] {
        assert!(left.contains(part), "{part}: {left}");
    }
    let piped = kindling(place.path(), &[&arguments[..4], &["--epochs", "1"]].concat());
    assert!(text(&piped.stderr).contains("epoch  1 of 1: train loss"));
    assert!(!text(&piped.stderr).contains('\u{1b}'), "no control characters in a pipe");
}

#[test]
fn a_terminal_without_escape_sequences_gets_none() {
    let place = tempfile::tempdir().unwrap();
    let data = ["--dataset", "synthetic", "--limit-batches", "2", "--hidden", "8"];
    let of_mlp = |command| [&[command, "mlp"], &data[..]].concat();
    let commands = [
        [&of_mlp("train")[..], &["--epochs", "1"]].concat(),
        [&of_mlp("lr-find")[..], &["--steps", "20"]].concat(),
        [&of_mlp("gradients")[..], &["--steps", "2"]].concat(),
        vec!["samples", "--dataset", "synthetic"],
        vec!["compare", "mlp-gradients"],
        vec!["runs"],
        vec!["train", "--help"],
        vec!["train", "vgg"],
    ];
    let environments = [("TERM", None), ("TERM", Some("")), ("TERM", Some("dumb")), ("NO_COLOR", Some("1"))];
    for (index, environment) in environments.into_iter().enumerate() {
        let place = place.path().join(index.to_string());
        fs::create_dir(&place).unwrap();
        for arguments in &commands {
            let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_kindling"));
            command.args(arguments);
            let End { all, .. } = Terminal::spawn(&place, command, &[environment]).end();
            assert!(!all.contains('\u{1b}'), "{environment:?} {arguments:?}: {all:?}");
            let expected = match arguments[0] {
                "train" if arguments[1] == "mlp" => "epoch  1 of 1: train loss",
                "lr-find" | "gradients" => "──",
                "samples" => "triangle",
                _ => "mlp",
            };
            assert!(all.contains(expected), "{environment:?} {arguments:?}: {all}");
        }
    }
}

#[test]
fn the_dashboard_is_refused_where_it_cannot_be_shown() {
    let place = tempfile::tempdir().unwrap();
    let end = |variable| {
        let mut command = CommandBuilder::new(env!("CARGO_BIN_EXE_kindling"));
        command.args([&TRAIN[..4], &["--epochs", "1", "--limit-batches", "1", "--dashboard", "always"]].concat());
        Terminal::spawn(place.path(), command, &[variable]).end()
    };
    for term in [None, Some(""), Some("dumb")] {
        let End { code, left, .. } = end(("TERM", term));
        assert_eq!(code, 2, "{left}");
        assert!(left.contains("--dashboard always needs a terminal with escape sequences"), "{left}");
    }
    assert!(!place.path().join("runs").exists());
    // Without colours it is still one that was asked for by name.
    let End { code, all, .. } = end(("NO_COLOR", Some("1")));
    assert!(code == 0 && all.contains(DASHBOARD), "{all}");
}
