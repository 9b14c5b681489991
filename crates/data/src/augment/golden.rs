//! The changes against torchvision's with the same parameters: `assets/golden/augmentations.json`, made by the script
//! beside it.

use std::{collections::BTreeMap, fs, ops::Range};

use kindling_config::Edge;
use serde::Deserialize;

use super::{
    Augmenter, Change, Scratch,
    color::Color,
    map::{Affine, Map},
    mix::Mix,
};
use crate::Normalization;

/// In [0, 1]: places that torchvision computes in f32 are off by up to 1e-6 pixels.
const TOLERANCE: f32 = 1e-5;

#[derive(Deserialize)]
struct Golden {
    images: BTreeMap<String, Image>,
    cases: Vec<Case>,
}

#[derive(Deserialize)]
struct Image {
    shape: [usize; 3],
    pixels: Vec<u8>,
    backgrounds: Vec<u8>,
}

#[derive(Deserialize)]
struct Case {
    image: String,
    pixels: Vec<f32>,
    #[serde(flatten)]
    parameters: Parameters,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(tag = "change", rename_all = "kebab-case")]
enum Parameters {
    Flip,
    Crop { edge: Edge, r#move: [isize; 2] },
    ResizedCrop { part: [usize; 4] },
    Rotate { angle: f64 },
    Affine { angle: f64, translate: [f64; 2], scale: f64, shear: f64 },
    Color { factors: [f32; 3] },
    Erase { part: [usize; 4] },
    Mixup { share: f32 },
    Cutmix { part: [usize; 4] },
}

fn rectangle([top, left, height, width]: [usize; 4]) -> [Range<usize>; 2] {
    [top..top + height, left..left + width]
}

impl Image {
    fn paint(&self, change: &Change, edge: Edge) -> Vec<f32> {
        let backgrounds = self.backgrounds.clone();
        let augmenter = Augmenter { augmentations: Vec::new(), seed: 0, shape: self.shape, edge, backgrounds };
        let (mut scratch, mut out) = (Scratch::default(), vec![f32::NAN; self.pixels.len()]);
        augmenter.paint(&self.pixels, change, &Normalization::default(), &mut scratch, &mut out);
        out
    }

    #[allow(clippy::needless_pass_by_value)] // Its fields are taken out.
    fn changed(&self, parameters: Parameters) -> Vec<f32> {
        let [_, height, width] = self.shape;
        let (identity, size) = (Map::IDENTITY, [height, width]);
        let unchanged = Change { map: identity, color: None, erased: None };
        let mapped = |map| self.paint(&Change { map, ..unchanged.clone() }, Edge::Background);
        let mixed = |mix: Mix| {
            let (mut own, other) = (mapped(identity), mapped(identity.flip(width)));
            mix.apply(self.shape, &other, &mut own);
            own
        };
        match parameters {
            Parameters::Flip => mapped(identity.flip(width)),
            Parameters::Crop { edge, r#move: [down, right] } => {
                self.paint(&Change { map: identity.shift(down, right), ..unchanged }, edge)
            }
            Parameters::ResizedCrop { part } => mapped(identity.resized_crop(&rectangle(part), size)),
            Parameters::Rotate { angle } => mapped(identity.rotate(angle, size)),
            Parameters::Affine { angle, translate, scale, shear } => {
                mapped(identity.affine(Affine { angle, translate, scale, shear }, size))
            }
            Parameters::Color { factors: [brightness, contrast, saturation] } => {
                let color = Some(Color { brightness, contrast, saturation });
                self.paint(&Change { color, ..unchanged }, Edge::Background)
            }
            Parameters::Erase { part } => {
                self.paint(&Change { erased: Some(rectangle(part)), ..unchanged }, Edge::Background)
            }
            Parameters::Mixup { share } => mixed(Mix { row: 1, share, pasted: None }),
            Parameters::Cutmix { part } => mixed(Mix { row: 1, share: 0.0, pasted: Some(rectangle(part)) }),
        }
    }
}

#[test]
fn the_changes_are_torchvisions_to_within_rounding() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../assets/golden/augmentations.json");
    let golden: Golden = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    assert!(golden.cases.len() > 50);
    for case in golden.cases {
        let changed = golden.images[&case.image].changed(case.parameters.clone());
        assert_eq!(changed.len(), case.pixels.len());
        let is_near = |(ours, theirs): (&f32, &f32)| (ours - theirs).abs() <= TOLERANCE;
        assert!(changed.iter().zip(&case.pixels).all(is_near), "{} {:?}", case.image, case.parameters);
    }
}
