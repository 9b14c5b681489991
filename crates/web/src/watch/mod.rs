//! `kindling watch`: runs as they train, in a browser.
//!
//! The pages are made here, curves and tables by `kindling_report`. A page asks for its parts again and again and names
//! the version that it has of each; only parts that have changed since are made and sent.

mod compare;
#[cfg(test)]
mod fixtures;
mod library;
mod list;
mod run_page;
mod steps;
#[cfg(test)]
mod tests;

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, PoisonError},
};

use kindling_record::{RecordError, RunDirectory, RunStatus};
use maud::{DOCTYPE, Markup, PreEscaped, html};
use serde::Serialize;
use serde_json::json;

pub use self::library::Runs;
use self::{
    compare::Ticks,
    library::{Library, Watched},
};
use crate::{Method, Request, Response};

const STYLE: &str = include_str!("../assets/watch.css");
const SCRIPT: &str = include_str!("../assets/watch.js");

/// Does something to a run, and says what happened or why not.
pub type Act = Box<dyn Fn(&RunDirectory) -> Result<String, String> + Send + Sync>;

/// What the page's buttons do.
pub struct Control {
    /// Stops a run that is being trained.
    pub stop: Act,
    /// Starts a process that trains an interrupted run further; returns when that holds the run, or has ended.
    pub resume: Act,
}

/// What to watch, and what the page may do.
pub struct Options {
    /// The runs.
    pub runs: Runs,
    /// Name of the program that users type, for messages.
    pub program: String,
    /// Stops and resumes runs; without it the page only shows them.
    pub control: Option<Control>,
}

/// The pages on the runs of `options`.
pub fn site(options: Options) -> impl Fn(&Request) -> Response + Sync {
    let site = Site { library: Library::new(options.runs), program: options.program, control: options.control };
    let resuming = Mutex::new(());
    move |request| match (request.method, request.path.as_str()) {
        (Method::Get, "/") => answer(site.list(request)),
        (Method::Get, "/run") => answer(site.run(request)),
        (Method::Get, "/parts") => answer(site.parts(request)),
        (Method::Get, "/base.css") => Response::css(kindling_report::PAGE_STYLE),
        (Method::Get, "/watch.css") => Response::css(STYLE),
        (Method::Get, "/watch.js") => Response::script(SCRIPT),
        (Method::Post, "/stop") => site.act(request, Site::stop),
        (Method::Post, "/resume") => {
            // Two at once would each see no other run.
            let _one = resuming.lock().unwrap_or_else(PoisonError::into_inner);
            site.act(request, |control, run| site.resume(control, run, request.value("also").is_some()))
        }
        _ => Response::not_found(),
    }
}

/// A piece of a page that changes by itself.
struct Part<'a> {
    name: &'static str,
    /// The same for the same content.
    version: String,
    content: Box<dyn FnOnce() -> String + 'a>,
}

impl<'a> Part<'a> {
    /// One that is cheap to make.
    fn of(name: &'static str, content: &Markup) -> Self {
        let content = content.0.clone();
        Self { name, version: version(&content), content: Box::new(move || content) }
    }

    /// One that takes time to make, from what `version` is the state of.
    fn from(name: &'static str, state: impl Hash, content: impl FnOnce() -> String + 'a) -> Self {
        Self { name, version: version(&state), content: Box::new(content) }
    }

    fn markup(self) -> Markup {
        html! {
            div.part data-part=(self.name) data-version=(self.version) { (PreEscaped((self.content)())) }
        }
    }
}

fn version(state: &impl Hash) -> String {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    format!("{:016x}", hasher.finish())
}

/// A part as it is sent.
#[derive(Serialize)]
struct Sent {
    version: String,
    html: String,
}

struct Site {
    library: Library,
    program: String,
    control: Option<Control>,
}

impl Site {
    /// The page of all runs.
    fn list(&self, request: &Request) -> Result<Response, RecordError> {
        let runs = self.library.all()?;
        let ticks = Ticks::of(request, &runs);
        let parts = self.list_parts(&runs, &ticks);
        Ok(self.page("Runs", "runs", &list::controls(&runs, &self.library.place()), parts))
    }

    fn list_parts<'a>(&'a self, runs: &'a [Watched], ticks: &'a Ticks<'a>) -> Vec<Part<'a>> {
        let table = list::table(runs, ticks, self.control.is_some(), |run| self.library.position(run));
        let mut parts = vec![Part::of("runs", &table)];
        parts.extend(compare::parts(ticks, &self.library));
        parts
    }

    /// The page of one run.
    fn run(&self, request: &Request) -> Result<Response, RecordError> {
        let Some(run) = self.library.find(request.value("id").unwrap_or_default())? else {
            let lead = html! {
                p { a href="/" { "All runs" } }
                p.message.error { "There is no run of this name; it may have been moved or removed." }
            };
            return Ok(with_status(404, self.page("No such run", "none", &lead, Vec::new())));
        };
        let lead = html! { p { a href="/" { "All runs" } } };
        Ok(self.page(&run.id, "run", &lead, self.run_parts(&run)))
    }

    fn run_parts<'a>(&'a self, run: &'a Watched) -> Vec<Part<'a>> {
        run_page::parts(run, &self.library, self.control.is_some(), &self.program)
    }

    /// The parts of a page of which it has other versions, or none.
    fn parts(&self, request: &Request) -> Result<Response, RecordError> {
        let runs = self.library.all()?;
        let ticks = Ticks::of(request, &runs);
        let parts = match request.value("id") {
            None => self.list_parts(&runs, &ticks),
            Some(id) => match runs.iter().find(|run| run.id == id) {
                Some(run) => self.run_parts(run),
                None => return Ok(Response::error(404, "this run is not there any more")),
            },
        };
        let changed = parts.into_iter().filter(|part| request.value(part.name) != Some(part.version.as_str()));
        let changed: BTreeMap<&str, Sent> =
            changed.map(|part| (part.name, Sent { version: part.version, html: (part.content)() })).collect();
        let is_live = runs.iter().any(Watched::is_running);
        Ok(Response::json(&json!({ "live": is_live, "parts": changed })))
    }

    fn page(&self, title: &str, kind: &str, lead: &Markup, parts: Vec<Part<'_>>) -> Response {
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    title { (title) " – " (self.program) " watch" }
                    link rel="icon" href="data:,";
                    link rel="stylesheet" href="/base.css";
                    link rel="stylesheet" href="/watch.css";
                    script src="/watch.js" defer {}
                }
                body data-page=(kind) data-run=[(kind == "run").then_some(title)] {
                    header {
                        h1 { (title) }
                        p #connection .message.error hidden {}
                    }
                    main {
                        (lead)
                        @for part in parts { (part.markup()) }
                    }
                    p #said .unseen role="status" aria-live="polite" {}
                    @if self.control.is_some() { (dialog()) }
                }
            }
        };
        Response::html(page.into_string())
    }

    /// Does something to the run that the request names, where the page may.
    fn act(&self, request: &Request, act: impl Fn(&Control, &Watched) -> Result<String, Refusal>) -> Response {
        let Some(control) = &self.control else {
            let program = &self.program;
            let message = format!("this page only shows runs; `{program} watch --control` stops and resumes them");
            return Response::error(403, message);
        };
        match self.library.find(request.value("id").unwrap_or_default()) {
            Err(error) => Response::error(500, error),
            Ok(None) => Response::error(404, "there is no run of this name"),
            Ok(Some(run)) => match act(control, &run) {
                Ok(said) => Response::json(&json!({ "said": said })),
                Err(Refusal::Failed(message)) => Response::error(500, message),
                Err(Refusal::Unfit(message)) => Response::error(409, message),
                Err(Refusal::Ask(message)) => {
                    with_status(409, Response::json(&json!({ "error": message, "ask": true })))
                }
            },
        }
    }

    fn stop(control: &Control, run: &Watched) -> Result<String, Refusal> {
        if !run.is_running() {
            return Err(Refusal::Unfit(format!("{} is not being trained{}", run.id, is_now(run))));
        }
        (control.stop)(&run.directory).map_err(Refusal::Failed)
    }

    fn resume(&self, control: &Control, run: &Watched, also: bool) -> Result<String, Refusal> {
        if !can_resume(run) {
            return Err(Refusal::Unfit(format!("there is nothing to resume of {}{}", run.id, is_now(run))));
        }
        let all = self.library.all().map_err(|error| Refusal::Failed(error.to_string()))?;
        if let Some(other) = all.iter().find(|other| other.is_running()).filter(|_| !also) {
            let message = format!("{} is being trained already, and two runs share the machine", other.id);
            return Err(Refusal::Ask(message));
        }
        (control.resume)(&run.directory).map_err(Refusal::Failed)
    }
}

/// Why nothing was done to a run.
enum Refusal {
    /// It was tried, and this came of it.
    Failed(String),
    /// The run is not in a state for it.
    Unfit(String),
    /// It is done when it is asked for once more.
    Ask(String),
}

/// Whether a process could train the run further.
fn can_resume(run: &Watched) -> bool {
    matches!(run.status, Some(RunStatus::Interrupted | RunStatus::Failed))
}

fn is_now(run: &Watched) -> String {
    run.status.map_or_else(|| "; its record cannot be read".to_owned(), |status| format!("; it is {status}"))
}

fn with_status(status: u16, mut response: Response) -> Response {
    response.status = status;
    response
}

fn answer(response: Result<Response, RecordError>) -> Response {
    response.unwrap_or_else(|error| Response::error(500, error))
}

/// Asks before a run is stopped or resumed.
fn dialog() -> Markup {
    html! {
        dialog #confirm aria-labelledby="question" {
            form method="dialog" {
                p #question {}
                div.controls {
                    button value="no" { "Cancel" }
                    button #yes value="yes" {}
                }
            }
        }
    }
}

/// The button of what can be done to a run, if anything can.
fn button(run: &Watched) -> Markup {
    let action = if run.is_running() { Some("Stop") } else { can_resume(run).then_some("Resume") };
    html! {
        @if let Some(action) = action {
            button type="button" data-action=(action.to_lowercase()) data-run=(run.id) aria-label={ (action) " " (run.id) } {
                (action)
            }
        }
    }
}

/// A run's status, as a word with a mark.
fn badge(run: &Watched) -> Markup {
    let status = run.status.map_or_else(|| "damaged".to_owned(), |status| status.to_string());
    html! { span class={ "badge " (status) } { (status) } }
}

/// Where the page of a run is.
fn link(id: &str) -> String {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte);
    let encoded = |byte| if is_plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    format!("/run?id={}", id.bytes().map(encoded).collect::<String>())
}
