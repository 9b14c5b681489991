//! The page's answers, and what it makes of what is sent to it.

use std::time::Duration;

use image::Luma;
use kindling_classification::ClassificationError;
use kindling_data::photo::Preparation;
use kindling_record::RecordError;

use super::*;
use crate::{
    Server,
    server::tests::{raw, with},
};

/// Twelve images of 10x10 in two classes, dark with a light half: the left one in class 0, the right one in class 1.
fn halves() -> ImageSet {
    let labels: Vec<u16> = (0..12).map(|index| index % 2).collect();
    let pixel = |label: u16, place: usize| if (place % 10 < 5) == (label == 0) { 200 } else { 0 };
    let pixels = labels.iter().flat_map(|&label| (0..100).map(move |place| pixel(label, place))).collect();
    ImageSet::new(pixels, labels, [1, 10, 10]).unwrap()
}

/// The share of the light that is in the left half, and of that which is in the right half; the third class has none.
#[allow(clippy::unnecessary_wraps)] // As a network answers.
fn left_or_right(images: &ImageSet) -> Result<Vec<Vec<f32>>, ClassificationError> {
    let light = |image: &[u8], is_left: bool| {
        let [_, _, width] = images.shape();
        let here = image.iter().enumerate().filter(|(place, _)| (place % width < width / 2) == is_left);
        here.map(|(_, &value)| f32::from(value)).sum::<f32>() + 1.0
    };
    Ok((0..images.count())
        .map(|index| {
            let (left, right) = (light(images.image(index), true), light(images.image(index), false));
            vec![left / (left + right), right / (left + right), 0.0]
        })
        .collect())
}

fn player(name: &str, side: usize, network: Network, test: Option<ImageSet>) -> Player {
    let facts = Facts {
        name: name.to_owned(),
        model: "mlp".to_owned(),
        dataset: "halves".to_owned(),
        classes: ["left", "right", "neither"].map(str::to_owned).to_vec(),
        accuracy: Some(0.5),
    };
    Player::new(facts, network, Preparation { shape: [1, side, side], fit: None, background: 0 }, test)
}

fn site_of(players: Vec<Player>) -> impl Fn(&Request) -> Response + Sync {
    site(players).unwrap()
}

/// Two runs, the second on larger images.
fn two() -> impl Fn(&Request) -> Response + Sync {
    site_of(vec![
        player("small", 10, Box::new(left_or_right), Some(halves())),
        player("large", 20, Box::new(left_or_right), None),
    ])
}

fn request(method: Method, target: &str, body: &[u8]) -> Request {
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let query = query.split('&').filter_map(|pair| pair.split_once('='));
    let query = query.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    Request { method, path: path.to_owned(), query, body: body.to_vec() }
}

fn get(site: &impl Fn(&Request) -> Response, target: &str) -> Response {
    site(&request(Method::Get, target, &[]))
}

fn json_of(response: &Response) -> Value {
    assert_eq!(response.content_type, "application/json");
    serde_json::from_slice(&response.body).unwrap()
}

fn post(site: &impl Fn(&Request) -> Response, target: &str, body: &[u8]) -> (u16, Value) {
    let response = site(&request(Method::Post, target, body));
    (response.status, json_of(&response))
}

/// A picture of 40x40 with this many light columns on the left, on black.
fn picture_of(columns: u32) -> Vec<u8> {
    let picture = GrayImage::from_fn(40, 40, |x, _| Luma([if x < columns { 255 } else { 0 }]));
    let mut file = Cursor::new(Vec::new());
    picture.write_to(&mut file, ImageFormat::Png).unwrap();
    file.into_inner()
}

/// The test images when all have been predicted.
fn tested(site: &impl Fn(&Request) -> Response, target: &str) -> Value {
    loop {
        let page = json_of(&get(site, target));
        if page["tested"] == page["count"] || !page["problem"].is_null() {
            return page;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn the_page_and_all_that_it_loads_are_there_and_nothing_is_from_elsewhere() {
    let site = two();
    let page = String::from_utf8(get(&site, "/").body).unwrap();
    let mut loaded: Vec<String> = ["src=\"", "href=\""]
        .iter()
        .flat_map(|attribute| page.split(attribute).skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()))
        .filter(|address| address != "data:,")
        .collect();
    assert_eq!(loaded, ["/play.js", "/base.css", "/play.css"]);
    loaded.extend(SCRIPTS.iter().map(|(name, _)| (*name).to_owned()));
    for address in loaded {
        let response = get(&site, &address);
        assert_eq!(response.status, 200, "{address}");
        let text = String::from_utf8(response.body).unwrap();
        assert!(!text.is_empty() && !text.contains("http://") && !text.contains("https://"), "{address}");
        for imported in text.split("from \"").skip(1).filter_map(|rest| rest.split('"').next()) {
            assert!(SCRIPTS.iter().any(|(name, _)| *name == imported), "{imported}");
        }
    }
    // What the policy forbids would not run.
    assert!(!page.contains("<script>") && !page.contains("onclick"), "no script stands in the page");
    for nowhere in
        ["/play", "/api", "/api/test/", "/api/test/x.png", "/api/test/-1.png", "/assets/play.js", "/etc/passwd"]
    {
        assert_eq!(get(&site, nowhere).status, 404, "{nowhere}");
    }
    assert_eq!(post(&site, "/", &[]).0, 404);
}

#[test]
fn every_run_is_described_with_what_the_page_needs() {
    let runs = json_of(&get(&two(), "/api/runs"));
    assert_eq!((&runs[0]["facts"]["name"], &runs[1]["facts"]["name"]), (&json!("small"), &json!("large")));
    assert_eq!((&runs[0]["width"], &runs[1]["width"], &runs[0]["adapts"]), (&json!(10), &json!(20), &json!(true)));
    assert_eq!((&runs[0]["tests"], &runs[1]["tests"]), (&json!(12), &Value::Null));
}

#[test]
fn each_run_answers_from_its_own_view_of_the_picture() {
    let site = two();
    let (status, answers) = post(&site, "/api/predict?as_is=1", &picture_of(10));
    assert_eq!(status, 200);
    for (answer, side) in [(&answers[0], 10), (&answers[1], 20)] {
        assert!(answer["probabilities"][0].as_f64().unwrap() > 0.99, "{answer}");
        let seen = answer["seen"].as_str().unwrap().strip_prefix("data:image/png;base64,").unwrap();
        let seen = image::load_from_memory(&STANDARD.decode(seen).unwrap()).unwrap();
        assert_eq!((seen.width(), seen.height()), (side, side));
    }
    // Trimmed to what stands out, the light is a stripe in the middle.
    let (_, answers) = post(&site, "/api/predict", &picture_of(10));
    assert!(answers[0]["probabilities"][1].as_f64().unwrap() > 0.3, "{answers}");
}

#[test]
fn a_picture_that_cannot_be_used_is_refused_with_the_reason() {
    let site = two();
    let message = |body: &[u8]| {
        let (status, answer) = post(&site, "/api/predict", body);
        assert_eq!(status, 400);
        answer["error"].as_str().unwrap().to_owned()
    };
    assert_eq!(message(b""), "no picture was sent");
    assert!(!message(b"GIF, or so it says").is_empty());
    assert!(message(&picture_of(10)[..80]).len() > 10);
    // A run that sees nothing says so, and the other one may see something.
    let (status, answers) = post(&site, "/api/predict", &picture_of(0));
    assert_eq!(status, 200);
    assert!(answers[0]["error"].as_str().unwrap().starts_with("nothing stands out"), "{answers}");
    assert_eq!(post(&site, "/api/predict?as_is=1", &picture_of(0)).0, 200);
    for target in ["/api/predict?as_is=perhaps", "/api/occlusion?run=2", "/api/occlusion?run=x"] {
        let (status, answer) = post(&site, target, &picture_of(10));
        assert_eq!((status, answer["error"].as_str().unwrap().contains("has no such value")), (400, true), "{target}");
    }
}

/// A PNG file of less than a hundred bytes that says it has 50,000 x 50,000 grey pixels, which take 2.5 GB.
fn bomb() -> Vec<u8> {
    let chunk = |name: &[u8; 4], data: &[u8]| {
        let checked = [name, data].concat();
        [&(data.len() as u32).to_be_bytes(), checked.as_slice(), &crc32fast::hash(&checked).to_be_bytes()].concat()
    };
    let side = 50_000_u32.to_be_bytes();
    let header = [&side[..], &side, &[8, 0, 0, 0, 0]].concat();
    // An empty stream of zlib's: a reader that allocates by the header has done so before.
    let data = [0x78, 0x9C, 0x03, 0, 0, 0, 0, 1];
    [b"\x89PNG\r\n\x1a\n".to_vec(), chunk(b"IHDR", &header), chunk(b"IDAT", &data), chunk(b"IEND", &[])].concat()
}

#[test]
fn a_picture_bomb_is_refused_by_its_size_over_http_and_the_server_lives() {
    let site = two();
    let sent = |server: &Server, body: &[u8]| {
        let head = format!("POST /api/predict HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n", body.len());
        raw(server, &[head.as_bytes(), body].concat())
    };
    let (refused, answered) = with(None, &site, |server| (sent(server, &bomb()), sent(server, &picture_of(10))));
    assert!(refused.starts_with("HTTP/1.1 400 ") && refused.contains("50000x50000 pixels take 2384 MiB"), "{refused}");
    assert!(answered.starts_with("HTTP/1.1 200 "), "{answered}");
}

#[test]
fn a_device_that_fails_is_told_to_the_page() {
    let fails = |_: &ImageSet| Err(RecordError::InvalidName { name: "gone".to_owned() }.into());
    let site = site_of(vec![player("broken", 10, Box::new(fails), Some(halves()))]);
    let (status, answer) = post(&site, "/api/predict?as_is=1", &picture_of(10));
    assert_eq!(status, 400);
    assert!(answer["error"].as_str().unwrap().contains("gone"), "{answer}");
    let page = tested(&site, "/api/test");
    assert_eq!((&page["tested"], &page["count"]), (&json!(0), &json!(12)));
    assert!(page["problem"].as_str().unwrap().contains("gone"), "{page}");
}

#[test]
fn test_images_are_found_by_class_and_by_whether_they_are_right() {
    // Everything is on the left, so that the images of class 1 are wrong.
    let left = |images: &ImageSet| Ok(vec![vec![0.75, 0.25, 0.0]; images.count()]);
    let site =
        site_of(vec![player("left", 10, Box::new(left), Some(halves())), player("without", 10, Box::new(left), None)]);
    let all = tested(&site, "/api/test");
    assert_eq!((&all["total"], &all["right"], &all["pages"]), (&json!(12), &json!(6), &json!(1)));
    assert_eq!(all["images"][1], json!({ "index": 1, "target": 1, "predicted": 0, "probability": 0.75 }));
    let indices = |target: &str| -> Vec<u64> {
        let page = json_of(&get(&site, target));
        page["images"].as_array().unwrap().iter().map(|image| image["index"].as_u64().unwrap()).collect()
    };
    assert_eq!(indices("/api/test?show=right"), [0, 2, 4, 6, 8, 10]);
    assert_eq!(indices("/api/test?show=wrong&class=1"), [1, 3, 5, 7, 9, 11]);
    assert_eq!(indices("/api/test?show=wrong&class=0"), [0; 0]);
    assert_eq!(indices("/api/test?class=&page=900"), (0..12).collect::<Vec<_>>());
    assert_eq!(json_of(&get(&site, "/api/test?run=1"))["count"], 0);
    for wrong in ["/api/test?show=nice", "/api/test?page=-1", "/api/test?class=left", "/api/test?run=7"] {
        assert_eq!(get(&site, wrong).status, 400, "{wrong}");
    }
    let picture = get(&site, "/api/test/1.png");
    assert_eq!(picture.content_type, "image/png");
    assert_eq!(image::load_from_memory(&picture.body).unwrap().into_luma8().into_raw(), halves().image(1));
    assert_eq!((get(&site, "/api/test/12.png").status, get(&site, "/api/test/1.png?run=1").status), (404, 404));
}

#[test]
fn covering_what_the_answer_rests_on_lowers_its_probability_and_covering_the_rest_does_not() {
    let (status, map) = post(&two(), "/api/occlusion?run=1&as_is=1", &picture_of(10));
    assert_eq!((status, &map["class"], &map["patch"]), (200, &json!(0), &json!([4, 4])));
    let patches = map["patches"].as_array().unwrap();
    assert_eq!(patches.len(), 81);
    for patch in patches {
        let (x, drop) = (patch["x"].as_u64().unwrap(), patch["drop"].as_f64().unwrap());
        // The light is in the first five columns of 20; Lanczos leaves traces beside it.
        assert_eq!(drop > 1e-6, x < 5, "{patch}");
    }
}

#[test]
fn images_in_colour_are_shown_in_colour() {
    let file = png(&[10, 20, 30, 40, 50, 60], [3, 1, 2]).unwrap();
    assert_eq!(image::load_from_memory(&file).unwrap().into_rgb8().into_raw(), [10, 30, 50, 20, 40, 60]);
    assert!(png(&[], [1, 0, 0]).is_err());
}
