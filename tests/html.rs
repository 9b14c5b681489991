//! Pages that run a network by themselves; whether they compute what the program does is checked by
//! `scripts/checks/html_page.py`, in a browser.

use std::{fmt::Write, fs, path::Path};

use serde_json::Value;

use crate::program::{kindling, text};

fn done(place: &Path, arguments: &[&str]) -> String {
    let output = kindling(place, arguments);
    assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// The content of the page's element that begins with `opening`.
fn content<'a>(page: &'a str, opening: &str) -> &'a str {
    let (_, after) = page.split_once(opening).unwrap();
    after.split_once("</script>").unwrap().0
}

#[test]
fn a_page_has_the_network_and_its_weights_and_loads_nothing() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let network = ["cnn", "--set", "network.channels=[2,3]", "--hidden", "4", "--dataset", "synthetic"];
    done(place, &[&["train"], &network[..], &["--epochs=1", "--limit-batches=3", "--name=shapes"]].concat());
    let printed = done(place, &["export", "shapes", "--format=html", "--output=shapes.html"]);
    assert_eq!(printed.lines().last(), Some("shapes.html"));
    let page = fs::read_to_string(place.join("shapes.html")).unwrap();
    for outside in ["http://", "https://", "src=", "<link", "@import", "url(", "fetch(", "XMLHttpRequest", "Socket"] {
        // Comments have the addresses of what they were written after.
        let mut found = page.lines().filter(|line| line.contains(outside) && !line.trim_start().starts_with("//"));
        assert_eq!(found.next(), None, "{outside}");
    }
    assert!(page.contains("default-src 'none'") && !page.contains("{{"));
    assert!(page.contains("<title>cnn on synthetic</title>") && page.contains("protocol validated"));

    let network: Value = serde_json::from_str(content(&page, r#"id="network">"#)).unwrap();
    assert_eq!(network["images"]["fit"], Value::Null);
    let operations: Vec<_> = network["network"]["operations"].as_array().unwrap().iter().collect();
    let names: Vec<_> = operations.iter().map(|operation| operation["operation"].as_str().unwrap()).collect();
    assert!(names.contains(&"Conv") && !names.contains(&"BatchNormalization"), "{names:?}");
    // Every number of every layer is there, and batch norms are within the convolutions.
    let size = |size: &Value| size.as_u64().unwrap();
    let floats = |shape: &Value| shape.as_array().unwrap().iter().map(size).product::<u64>();
    let constants = network["network"]["constants"].as_object().unwrap();
    let weights = constants.values().filter(|one| one["type"] == "f32").map(|one| floats(&one["shape"]));
    let bytes = 4 * usize::try_from(weights.sum::<u64>()).unwrap();
    assert_eq!(content(&page, r#"id="weights">"#).trim().len(), bytes.div_ceil(3) * 4);
    assert!(bytes >= 4 * (2 * 9 + 2 + 2 * 3 * 9 + 3 + 3 * 49 * 4 + 4 + 4 * 10 + 10), "{bytes}");

    let refused = kindling(place, &["export", "shapes", "--format=html", "--output=shapes.html"]);
    assert!(!refused.status.success(), "an existing page is not replaced without being told to");
    assert_eq!(fs::read_to_string(place.join("shapes.html")).unwrap(), page);
}

#[test]
fn names_of_classes_are_text_and_no_part_of_the_page() {
    let place = tempfile::tempdir().unwrap();
    let place = place.path();
    let names = ["</script><script>alert(1)</script>", "<!--<script>", "a & \"b\""];
    let mut table = String::from("label,p0,p1,p2,p3\n");
    for index in 0..60 {
        let quoted = names[index % 3].replace('"', "\"\"");
        writeln!(table, "\"{quoted}\",{},0,{},9", 80 * (index % 3), index).unwrap();
    }
    fs::write(place.join("names.csv"), table).unwrap();
    let data = ["--dataset=csv", "--data-dir=names.csv"];
    done(place, &[&["train", "mlp", "--hidden=4", "--epochs=1", "--name=names"], &data[..]].concat());
    done(place, &["export", "names", "--format=html", "--output=names.html"]);
    let page = fs::read_to_string(place.join("names.html")).unwrap();
    assert!(!page.contains("alert(1)</script>") && !page.contains("<!--"));
    assert_eq!(page.matches("<script").count(), 4);
    let network: Value = serde_json::from_str(content(&page, r#"id="network">"#)).unwrap();
    let mut found: Vec<_> = network["classes"].as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect();
    found.sort_unstable();
    let mut names = names;
    names.sort_unstable();
    assert_eq!(found, names);
}
