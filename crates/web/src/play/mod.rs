//! `kindling play`: a run's network, or two side by side, on pictures that are drawn, dropped, or seen by the camera.
//!
//! The page sends a picture whenever it changes and gets what each network sees of it and makes of it. Nothing is kept.

mod occlusion;
mod player;

use std::{
    io::Cursor,
    sync::{Arc, Mutex, PoisonError, Weak},
    thread,
};

use base64::{Engine, engine::general_purpose::STANDARD};
use image::{DynamicImage, GrayImage, ImageFormat, RgbImage};
use kindling_data::{ImageSet, picture};
use serde_json::{Value, json};

pub use self::player::{Facts, Network, Player};
use crate::{Method, Request, Response, WebError};

const PAGE: &str = include_str!("../assets/play.html");
const STYLE: &str = include_str!("../assets/play.css");
const SCRIPTS: [(&str, &str); 5] = [
    ("/play.js", include_str!("../assets/play.js")),
    ("/drawing.js", kindling_report::DRAWING),
    ("/camera.js", include_str!("../assets/camera.js")),
    ("/gallery.js", include_str!("../assets/gallery.js")),
    ("/looks.js", include_str!("../assets/looks.js")),
];

/// Test images on a page of the gallery.
const PAGE_SIZE: usize = 60;

/// The page to play with these runs. In the background, each predicts its test images.
///
/// # Errors
/// When the thread for that cannot be started.
pub fn site(players: Vec<Player>) -> std::io::Result<impl Fn(&Request) -> Response + Sync> {
    let site = Arc::new(Site { players, decoding: Mutex::new(()) });
    let weak = Arc::downgrade(&site);
    thread::Builder::new().name("test images".to_owned()).spawn(move || test(&weak))?;
    Ok(move |request: &Request| site.answer(request).unwrap_or_else(Response::bad))
}

/// Predicts the test images of all runs, batch by batch, for as long as there is a site.
fn test(site: &Weak<Site>) {
    let runs = site.upgrade().map_or(0, |site| site.players.len());
    for run in 0..runs {
        while site.upgrade().is_some_and(|site| site.players[run].test_more()) {}
    }
}

struct Site {
    players: Vec<Player>,
    /// Held while a picture is decoded, which may take much memory.
    decoding: Mutex<()>,
}

impl Site {
    fn answer(&self, request: &Request) -> Result<Response, WebError> {
        Ok(match (request.method, request.path.as_str()) {
            (Method::Get, "/") => Response::html(PAGE),
            (Method::Get, "/base.css") => Response::css(kindling_report::PAGE_STYLE),
            (Method::Get, "/play.css") => Response::css(STYLE),
            (Method::Get, "/api/runs") => {
                Response::json(&self.players.iter().map(Player::described).collect::<Vec<_>>())
            }
            (Method::Post, "/api/predict") => Response::json(&self.predict(request)?),
            (Method::Post, "/api/occlusion") => {
                let (run, player) = self.run(request)?;
                let image = self.images(request)?.swap_remove(run).map_err(WebError::Picture)?;
                Response::json(&occlusion::map(player, &image)?)
            }
            (Method::Get, "/api/test") => self.test_page(request)?,
            (Method::Get, path) => {
                if let Some((_, script)) = SCRIPTS.iter().find(|(name, _)| *name == path) {
                    return Ok(Response::script(*script));
                }
                let number = path.strip_prefix("/api/test/").and_then(|file| file.strip_suffix(".png"));
                let Some(Ok(index)) = number.map(str::parse::<usize>) else { return Ok(Response::not_found()) };
                match self.run(request)?.1.test_images().filter(|set| index < set.count()) {
                    Some(set) => Response::png(png(set.image(index), set.shape())?),
                    None => Response::not_found(),
                }
            }
            _ => Response::not_found(),
        })
    }

    /// The run that a request names by its place, the first without a name.
    fn run(&self, request: &Request) -> Result<(usize, &Player), WebError> {
        let run = number(request, "run")?.unwrap_or(0);
        let player = self.players.get(run).ok_or_else(|| WebError::Value("run", run.to_string()))?;
        Ok((run, player))
    }

    /// What each run sees of the picture that was sent, or why it sees nothing.
    fn images(&self, request: &Request) -> Result<Vec<Result<ImageSet, String>>, WebError> {
        if request.body.is_empty() {
            return Err(WebError::Picture("no picture was sent".to_owned()));
        }
        let as_is = number(request, "as_is")?.unwrap_or(0) != 0;
        let _alone = self.decoding.lock().unwrap_or_else(PoisonError::into_inner);
        let picture = picture::decode(&request.body).map_err(WebError::Picture)?;
        Ok(self.players.iter().map(|player| player.image(&picture, as_is).map_err(|error| error.to_string())).collect())
    }

    /// For each run: what it sees, as a PNG file in base64, and the probabilities of its classes.
    fn predict(&self, request: &Request) -> Result<Vec<Value>, WebError> {
        let images = self.images(request)?.into_iter().zip(&self.players);
        let answers = images.map(|(image, player)| match image {
            Ok(image) => {
                let probabilities = player.probabilities(&image)?;
                let seen = STANDARD.encode(png(image.image(0), image.shape())?);
                Ok(json!({ "seen": format!("data:image/png;base64,{seen}"), "probabilities": probabilities[0] }))
            }
            Err(error) => Ok(json!({ "error": error })),
        });
        answers.collect()
    }

    /// A page of the test images of a run: those of a class, or that it gets right or wrong.
    fn test_page(&self, request: &Request) -> Result<Response, WebError> {
        let (_, player) = self.run(request)?;
        let class = number(request, "class")?;
        let wanted = match request.value("show").unwrap_or("all") {
            "all" => None,
            "right" => Some(true),
            "wrong" => Some(false),
            other => return Err(WebError::Value("show", other.to_owned())),
        };
        let tested = player.tested();
        let chosen: Vec<Value> = player
            .test_labels()
            .iter()
            .enumerate()
            .filter_map(|(index, &target)| {
                let prediction = tested.get(index);
                let is_right = prediction.map(|(predicted, _)| *predicted == usize::from(target));
                let is_chosen =
                    class.is_none_or(|class| class == usize::from(target)) && (wanted.is_none() || wanted == is_right);
                is_chosen.then(|| {
                    let (predicted, probability) = prediction.copied().unzip();
                    json!({ "index": index, "target": target, "predicted": predicted, "probability": probability })
                })
            })
            .collect();
        let pages = chosen.len().div_ceil(PAGE_SIZE).max(1);
        let page = number(request, "page")?.unwrap_or(0).min(pages - 1);
        let images: Vec<_> = chosen.iter().skip(page * PAGE_SIZE).take(PAGE_SIZE).collect();
        let right = tested
            .iter()
            .zip(player.test_labels())
            .filter(|((predicted, _), target)| *predicted == usize::from(**target));
        Ok(Response::json(&json!({
            "images": images,
            "total": chosen.len(),
            "page": page,
            "pages": pages,
            "tested": tested.len(),
            "right": right.count(),
            "count": player.test_labels().len(),
            "problem": player.test_problem(),
        })))
    }
}

/// The number with this name in the query, if there is one.
fn number(request: &Request, name: &'static str) -> Result<Option<usize>, WebError> {
    let value = request.value(name).filter(|value| !value.is_empty());
    value.map(|value| value.parse().map_err(|_| WebError::Value(name, value.to_owned()))).transpose()
}

/// Planar pixels as a PNG file, in grey or in colour.
fn png(pixels: &[u8], [channels, height, width]: [usize; 3]) -> Result<Vec<u8>, WebError> {
    let (columns, rows, size) = (width as u32, height as u32, height * width);
    let picture: Option<DynamicImage> = if channels < 3 {
        GrayImage::from_raw(columns, rows, pixels[..size].to_vec()).map(Into::into)
    } else {
        let pixels = (0..size).flat_map(|pixel| [0, 1, 2].map(|channel| pixels[channel * size + pixel])).collect();
        RgbImage::from_raw(columns, rows, pixels).map(Into::into)
    };
    let mut file = Cursor::new(Vec::new());
    let written = picture.map(|picture| picture.write_to(&mut file, ImageFormat::Png));
    match written {
        Some(Ok(())) => Ok(file.into_inner()),
        _ => Err(WebError::Picture(format!("an image of {height}x{width} pixels cannot be shown"))),
    }
}

#[cfg(test)]
mod tests;
