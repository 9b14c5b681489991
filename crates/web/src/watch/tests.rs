//! What the pages say to requests; `tests/watch.rs` asks the program, and `scripts/checks/watch_page.py` does what a
//! person does in a browser.

use std::{
    fs,
    path::Path,
    sync::{Arc, Mutex},
};

use kindling_record::StepLog;
use serde_json::{Value, json};

use super::{
    fixtures::{change, epoch, run},
    *,
};

fn request(method: Method, target: &str) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Request { method, path: path.to_owned(), query, body: Vec::new() }
}

fn watching(place: &Path, control: Option<Control>) -> impl Fn(&Request) -> Response + Sync {
    site(Options { runs: Runs::In(place.to_path_buf()), program: "kindling".to_owned(), control })
}

fn text(response: Response) -> String {
    String::from_utf8(response.body).unwrap()
}

fn page(site: &impl Fn(&Request) -> Response, target: &str) -> String {
    let response = site(&request(Method::Get, target));
    assert_eq!(response.status, 200, "{target}");
    text(response)
}

/// The parts that have changed, by their names.
fn parts(site: &impl Fn(&Request) -> Response, query: &str) -> Value {
    serde_json::from_str(&page(site, &format!("/parts?{query}"))).unwrap()
}

/// The query of a page that has these parts.
fn versions(parts: &Value) -> String {
    let parts = parts["parts"].as_object().unwrap();
    let version = |(name, part): (&String, &Value)| format!("&{name}={}", part["version"].as_str().unwrap());
    parts.iter().map(version).collect::<Vec<_>>().concat()
}

fn changed(parts: &Value) -> Vec<&str> {
    parts["parts"].as_object().unwrap().keys().map(String::as_str).collect()
}

#[test]
fn only_parts_that_have_changed_are_sent_again() {
    let place = tempfile::tempdir().unwrap();
    let first = run(place.path(), "first", json!({}));
    run(place.path(), "second", json!({}));
    let site = watching(place.path(), None);
    let query = "tick=first&tick=second&colors=0,1";
    let all = parts(&site, query);
    assert_eq!(changed(&all), ["configs", "curves", "runs", "steps", "ticked"]);
    let has_all = format!("{query}{}", versions(&all));
    assert!(changed(&parts(&site, &has_all)).is_empty());
    change(&first, json!({ "epochs": [epoch(1, 0.5), epoch(2, 0.4)], "best_epoch": 2 }));
    let next = parts(&site, &has_all);
    assert_eq!(changed(&next), ["configs", "curves", "runs"]);
    assert!(next["parts"]["runs"]["html"].as_str().unwrap().contains("0.4000"));
    let mut log = StepLog::open(&first.steps(), 0).unwrap();
    let step = json!({ "step": 1, "epoch": 3, "loss": 0.25, "learning_rate": 0.1 });
    log.append(&serde_json::from_value(step).unwrap()).unwrap();
    log.flush().unwrap();
    let last = parts(&site, &format!("{query}{}&curves={}", versions(&all), next["parts"]["curves"]["version"]));
    assert!(changed(&last).contains(&"steps"));
    assert!(last["parts"]["steps"]["html"].as_str().unwrap().contains("<svg"));
}

#[test]
fn a_run_keeps_its_colour_whatever_is_ticked_beside_it() {
    let place = tempfile::tempdir().unwrap();
    run(place.path(), "first", json!({}));
    run(place.path(), "second", json!({}));
    let site = watching(place.path(), None);
    let curves = |query: &str| parts(&site, query)["parts"]["curves"]["html"].as_str().unwrap().to_owned();
    let [blue, orange] = ["#0072b2", "#d55e00"];
    let both = curves("tick=first&tick=second&colors=0,1");
    assert!(both.contains(blue) && both.contains(orange));
    let second = curves("tick=second&colors=1");
    assert!(second.contains(orange) && !second.contains(blue));
    // Without numbers they have the colours of their order; what is no run, or ticked twice, counts nothing.
    assert!(curves("tick=none&tick=second&tick=second").contains(orange));
    assert!(parts(&site, "tick=first&colors=x,99999999999999999999999").is_object());
}

#[test]
fn foreign_text_in_names_configs_and_logs_is_shown_and_does_nothing() {
    let place = tempfile::tempdir().unwrap();
    let evil = "<script>alert(1)<";
    let changes = json!({
        "model": evil, "backend": evil, "device": evil, "error": evil, "started": evil, "status": "failed",
        "monitor": "valid/<b>", "config": { "network": { "name": evil, evil: evil } }, "stopped_early": evil,
        "dataset": { "name": evil, "classes": [evil, evil] },
        "metrics": [{ "name": evil, "higher_is_better": true, "unit": evil }],
        "epochs": [{ "metrics": { "train/<script>alert(1)<": 0.5 } }],
    });
    let directory = run(place.path(), evil, json!({}));
    let mut epochs = json!([epoch(1, 0.5)]);
    epochs[0]["metrics"] = json!({ format!("train/{evil}"): 0.5, format!("valid/{evil}"): 0.5 });
    change(&directory, changes);
    change(&directory, json!({ "epochs": epochs }));
    fs::write(directory.log(), format!("{evil}\u{1b}[31m\n</code></pre>{evil}\n")).unwrap();
    fs::write(directory.steps(), format!("{evil}\n")).unwrap();
    let broken = run(place.path(), "<i>broken", json!({}));
    fs::write(broken.path().join("run.json"), format!("\"{evil}")).unwrap();
    let site = watching(
        place.path(),
        Some(Control { stop: Box::new(|_| Err("no".to_owned())), resume: Box::new(|_| Err("no".to_owned())) }),
    );
    for target in ["/?tick=<script>alert(1)<", "/run?id=<script>alert(1)<", "/run?id=<i>broken"] {
        let page = page(&site, target);
        assert!(page.contains("&lt;"), "{target}");
        // The page's own is the only one.
        assert_eq!(page.matches("<script").count(), 1, "{target}: {page}");
        assert!(!page.contains("<i>") && !page.contains("<b>") && !page.contains('\u{1b}'), "{target}");
    }
    let sent = text(site(&request(Method::Get, "/parts?tick=<script>alert(1)<")));
    assert!(!sent.contains("<script"), "{sent}");
    let refused = site(&request(Method::Get, "/run?id=<script>"));
    assert_eq!(refused.status, 404);
    assert!(!text(refused).contains("<script>"));
}

#[test]
fn a_run_has_a_page_with_what_is_known_of_it_and_a_damaged_one_has_its_log() {
    let place = tempfile::tempdir().unwrap();
    let directory = run(place.path(), "mlp", json!({}));
    fs::write(directory.log(), "started\nepoch 1 is done\n").unwrap();
    let gradient = json!({ "mean": 0.1, "mean_abs": 0.2, "norm": 0.3, "layers": [] });
    let step = json!({ "step": 1, "epoch": 1, "loss": 0.25, "learning_rate": 0.1, "gradient": gradient });
    fs::write(directory.steps(), format!("{step}\n")).unwrap();
    let site = watching(place.path(), None);
    let mlp = page(&site, "/run?id=mlp");
    for wanted in [
        "1,234 parameters",
        "75.00 %",
        "Numbers of each epoch",
        "norm of the gradients",
        "Confusion matrix of run",
        "learning_rate <code>0.1</code>",
        "epoch 1 is done",
        "kindling evaluate mlp",
    ] {
        assert!(mlp.contains(wanted), "{wanted}: {mlp}");
    }
    fs::write(directory.path().join("run.json"), "{").unwrap();
    let torn = page(&site, "/run?id=mlp");
    assert!(torn.contains("run.json: EOF") && torn.contains("epoch 1 is done") && torn.contains("damaged"), "{torn}");
    fs::remove_dir_all(directory.path()).unwrap();
    assert_eq!(site(&request(Method::Get, "/parts?id=mlp")).status, 404);
}

#[test]
fn a_page_without_control_stops_and_resumes_nothing() {
    let place = tempfile::tempdir().unwrap();
    run(place.path(), "mlp", json!({ "status": "interrupted" }));
    let site = watching(place.path(), None);
    for target in ["/stop?id=mlp", "/resume?id=mlp"] {
        let refused = site(&request(Method::Post, target));
        assert_eq!(refused.status, 403);
        assert!(text(refused).contains("kindling watch --control"));
    }
    assert!(!page(&site, "/").contains("data-action"));
}

#[test]
fn runs_are_stopped_while_they_are_trained_and_resumed_one_at_a_time_unless_asked() {
    let place = tempfile::tempdir().unwrap();
    let live = run(place.path(), "live", json!({ "status": "running" }));
    run(place.path(), "idle", json!({ "status": "interrupted" }));
    run(place.path(), "done", json!({}));
    let done = Arc::new(Mutex::new(Vec::new()));
    let note = |what: &'static str| -> Act {
        let done = Arc::clone(&done);
        Box::new(move |run| {
            done.lock().unwrap().push(format!("{what} {}", run.id()));
            Ok(format!("{what} it"))
        })
    };
    let site = watching(place.path(), Some(Control { stop: note("stopped"), resume: note("resumed") }));
    let post = |target: &str| {
        let response = site(&request(Method::Post, target));
        (response.status, serde_json::from_str::<Value>(&text(response)).unwrap())
    };
    let lock = live.lock().unwrap();
    assert!(page(&site, "/").contains("data-action=\"stop\" data-run=\"live\""));
    for (target, status, said) in [
        ("/stop?id=idle", 409, "idle is not being trained; it is interrupted"),
        ("/resume?id=done", 409, "there is nothing to resume of done; it is finished"),
        ("/resume?id=live", 409, "there is nothing to resume of live; it is running"),
        ("/resume?id=none", 404, "there is no run of this name"),
        ("/stop", 404, "there is no run of this name"),
        ("/resume?id=idle", 409, "live is being trained already"),
    ] {
        let (found, answer) = post(target);
        assert_eq!(found, status, "{target}");
        assert!(answer["error"].as_str().unwrap().starts_with(said), "{target}: {answer}");
        assert_eq!(answer["ask"].is_null(), target != "/resume?id=idle", "{target}");
    }
    assert!(done.lock().unwrap().is_empty());
    assert_eq!(post("/stop?id=live"), (200, json!({ "said": "stopped it" })));
    assert_eq!(post("/resume?id=idle&also=yes").0, 200);
    drop(lock);
    assert_eq!(post("/resume?id=live").0, 200);
    assert_eq!(*done.lock().unwrap(), ["stopped live", "resumed idle", "resumed live"]);
    // Reading does nothing.
    assert_eq!(site(&request(Method::Get, "/stop?id=live")).status, 404);
}

#[test]
fn a_runs_directory_of_any_kind_has_a_page() {
    let place = tempfile::tempdir().unwrap();
    assert!(page(&watching(&place.path().join("none"), None), "/").contains("There are no runs yet"));
    let file = place.path().join("file");
    fs::write(&file, "").unwrap();
    let failed = watching(&file, None)(&request(Method::Get, "/"));
    assert_eq!(failed.status, 500);
    let record: Value = json!({ "config": {}, "epochs": [], "metrics": [], "monitor": "", "test": null, "parts": [] });
    let bare = run(place.path(), "bare", json!({}));
    let mut whole: Value = serde_json::from_slice(&fs::read(bare.path().join("run.json")).unwrap()).unwrap();
    for (key, value) in record.as_object().unwrap() {
        whole[key] = value.clone();
    }
    fs::write(bare.path().join("run.json"), whole.to_string()).unwrap();
    let site = watching(place.path(), None);
    assert!(page(&site, "/?tick=bare").contains("bare") && page(&site, "/run?id=bare").contains("bare"));
}
