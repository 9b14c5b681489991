//! Random changes of training images, drawn anew in each epoch: the parameters of each, with their defaults and ranges.

use std::{
    fmt::{self, Write},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::{
    ConfigError, Kind, Range,
    declare::{Field, Typed, Variant, object},
    keys::{nearest, plain},
};

variants! {
    /// A random change of training images.
    Augmentation {
        /// Share of the images that are changed.
        probability: f64, Share, None;
        /// Whether the image is mirrored in every other epoch, by chance from the first or the second on, in place of anew
        /// in each epoch.
        alternate: bool, Any, None;
        /// Most pixels by which an image moves in each direction.
        pixels: usize, Side, None;
        /// Pixels added on each side before an image of the old size is cut out.
        padding: usize, Side, None;
        /// What is added around an image, and what comes in where shift, rotate and affine move it.
        edge: Edge, Any, None;
        /// Smallest scale: a share of the area, or with `affine` a factor of both sides.
        scale_min: f64, Positive, None;
        /// Largest scale: a share of the area, or with `affine` a factor of both sides.
        scale_max: f64, Positive, None;
        /// Smallest ratio of the sides: width to height, and with erase height to width.
        ratio_min: f64, Positive, None;
        /// Largest ratio of the sides.
        ratio_max: f64, Positive, None;
        /// Largest angle, to either side, in degrees.
        degrees: f64, HalfTurn, None;
        /// Largest move in each direction, as a share of the side.
        translate: f64, Share, None;
        /// Largest horizontal shear, to either side, in degrees.
        shear: f64, Acute, None;
        /// Largest change of the brightness, whose factor is at most this far from 1.
        brightness: f64, NotNegative, None;
        /// Largest change of the contrast, whose factor is at most this far from 1.
        contrast: f64, NotNegative, None;
        /// Largest change of the saturation, whose factor is at most this far from 1.
        saturation: f64, NotNegative, None;
        /// Both parameters of the beta distribution that the share of the other image is drawn from.
        alpha: f64, Positive, None;
    }
    /// Mirrored left to right. In turns it is of <https://arxiv.org/abs/2404.00498>: no image is seen twice the same way
    /// in two epochs.
    Flip = "flip" { probability: 0.5, alternate: false }
    /// Moved by whole pixels; the background comes in.
    Shift = "shift" { pixels: 2 }
    /// A random part of the padded image, as large as the image; torchvision's `RandomCrop(size, padding)`.
    Crop = "crop" { padding: 4, edge: Edge::Background }
    /// A random part of the image, resized to the image's size; torchvision's `RandomResizedCrop`.
    ResizedCrop = "resized-crop" { scale_min: 0.08, scale_max: 1.0, ratio_min: 0.75, ratio_max: 4.0 / 3.0 }
    /// Rotated about the middle.
    Rotate = "rotate" { degrees: 15.0 }
    /// Rotated, moved, scaled and sheared at once; torchvision's `RandomAffine`.
    Affine = "affine" { degrees: 15.0, translate: 0.1, scale_min: 0.9, scale_max: 1.1, shear: 0.0 }
    /// Brightness, contrast and saturation changed; torchvision's `ColorJitter` without hue.
    Color = "color" { brightness: 0.2, contrast: 0.2, saturation: 0.2 }
    /// A rectangle replaced by the background; Zhong et al., <https://arxiv.org/abs/1708.04896>. The ratio of its sides is
    /// uniform, where torchvision's `RandomErasing` has a uniform logarithm.
    Erase = "erase" { probability: 0.5, scale_min: 0.02, scale_max: 0.33, ratio_min: 0.3, ratio_max: 3.3 }
    /// Blended with another image, and the targets with it; Zhang et al., <https://arxiv.org/abs/1710.09412>.
    Mixup = "mixup" { alpha: 0.2, probability: 1.0 }
    /// A rectangle replaced by that of another image, and the targets blended by its area; Yun et al.,
    /// <https://arxiv.org/abs/1905.04899>.
    Cutmix = "cutmix" { alpha: 1.0, probability: 1.0 }
}

names! {
    /// What comes in from outside an image.
    Edge {
        /// The background of the data set.
        Background = "background",
        /// The image mirrored at its edge.
        Reflect = "reflect",
    }
}

impl Augmentation {
    /// The names of all of them, in the order of their declaration.
    pub(crate) const NAMES: [&str; Self::VARIANTS.len()] = {
        let mut names = [""; Self::VARIANTS.len()];
        let mut index = 0;
        while index < names.len() {
            names[index] = Self::VARIANTS[index].name;
            index += 1;
        }
        names
    };

    /// All of them, with their default parameters.
    pub(crate) fn all() -> impl Iterator<Item = Self> {
        Self::NAMES.into_iter().filter_map(|name| name.parse().ok())
    }

    /// What a value describes for the key of this path: a name (`"flip"`), a text (`crop:padding=2:edge=reflect`) or an
    /// object (`{"name": "crop", "padding": 2}`).
    pub(crate) fn read(path: &str, value: &Value) -> Result<Self, ConfigError> {
        let given = match value {
            Value::String(text) => Self::parameters(path, text)?,
            Value::Object(object) => object.clone(),
            other => return Err(ConfigError::invalid(path, Kind::Augmentation.to_string(), other)),
        };
        let Some(Value::String(name)) = given.get("name") else {
            return Err(ConfigError::invalid(path, "an object with the `name` of an augmentation", value));
        };
        let Some(variant) = Self::VARIANTS.iter().find(|variant| variant.name == name) else {
            return Err(ConfigError::UnknownName {
                what: "augmentation",
                nearest: nearest(name, Self::NAMES.into_iter()),
                name: name.clone(),
                known: Self::NAMES.join(", "),
            });
        };
        let mut complete = (variant.defaults)();
        for (key, value) in given.iter().filter(|(key, _)| *key != "name") {
            let path = |key: &str| format!("{path}.{name}.{key}");
            let field = Self::FIELDS.iter().find(|field| field.name == key && complete.contains_key(key));
            let Some(field) = field else {
                let nearest = path(&nearest(key, complete.keys().map(String::as_str)));
                return Err(ConfigError::UnknownKey { key: path(key), nearest });
            };
            if !value.is_null() {
                complete.insert(key.clone(), field.read(&path(key), value)?);
            }
        }
        for [low, high] in [["scale_min", "scale_max"], ["ratio_min", "ratio_max"]] {
            let number = |key: &str| complete.get(key).and_then(Value::as_f64);
            if let (Some(least), Some(most)) = (number(low), number(high))
                && least > most
            {
                let wanted = format!("at most {high} ({most})");
                return Err(ConfigError::invalid(&format!("{path}.{name}.{low}"), wanted, &least.into()));
            }
        }
        if let Some(share) = complete.get("scale_max")
            && name != "affine"
            && share.as_f64() > Some(1.0)
        {
            return Err(ConfigError::invalid(&format!("{path}.{name}.scale_max"), "at most 1", share));
        }
        if let (Some(Value::Bool(true)), Some(share)) = (complete.get("alternate"), complete.get("probability"))
            && share.as_f64() != Some(0.5)
        {
            return Err(ConfigError::Excludes {
                key: format!("{path}.{name}.alternate"),
                value: "true".to_owned(),
                other: format!("{path}.{name}.probability"),
                found: plain(share),
            });
        }
        complete.insert("name".to_owned(), name.as_str().into());
        serde_json::from_value(complete.into()).map_err(|error| ConfigError::Malformed(format!("{path}: {error}")))
    }

    /// The name and the parameters of a text such as `crop:padding=2:edge=reflect`.
    fn parameters(path: &str, text: &str) -> Result<Map<String, Value>, ConfigError> {
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let mut given = Map::from_iter([("name".to_owned(), name.into())]);
        for part in parts {
            let Some((key, value)) = part.split_once('=').filter(|(key, _)| *key != "name") else {
                let wanted = "NAME or NAME:KEY=VALUE:KEY=VALUE, such as crop:padding=2";
                return Err(ConfigError::invalid(path, wanted, &text.into()));
            };
            if given.insert(key.to_owned(), typed(value)).is_some() {
                return Err(ConfigError::twice(&format!("{path}.{name}.{key}")));
            }
        }
        Ok(given)
    }

    /// Each once and in the order of declaration: what is written otherwise trains the same.
    pub(crate) fn sort(path: &str, augmentations: &mut Vec<Self>) -> Result<(), ConfigError> {
        augmentations.sort_by_key(|one| Self::NAMES.iter().position(|name| *name == one.name()));
        augmentations.dedup();
        match augmentations.windows(2).find(|pair| pair[0].name() == pair[1].name()) {
            None => Ok(()),
            Some(pair) => Err(ConfigError::Invalid {
                key: path.to_owned(),
                wanted: format!("`{}` once", pair[0].name()),
                found: format!("{} and {}", pair[0], pair[1]),
            }),
        }
    }
}

/// The value that a text is: JSON, a number such as `.5`, or a text.
pub(crate) fn typed(text: &str) -> Value {
    let number = || text.parse().ok().and_then(serde_json::Number::from_f64).map(Value::Number);
    serde_json::from_str(text).ok().or_else(number).unwrap_or_else(|| text.into())
}

/// The text from which it can be read, with the parameters that differ from the defaults, as in `crop:padding=2`; with
/// all of them as `{:#}`.
impl fmt::Display for Augmentation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.name().to_owned();
        let defaults = Self::VARIANTS.iter().find(|variant| variant.name == self.name());
        let defaults = defaults.map(|variant| (variant.defaults)()).unwrap_or_default();
        let keys = object(self);
        for name in Self::FIELDS.iter().map(|field| field.name) {
            if let Some(value) = keys.get(name).filter(|value| f.alternate() || defaults.get(name) != Some(value)) {
                write!(text, ":{name}={}", plain(value))?;
            }
        }
        f.pad(&text)
    }
}

impl FromStr for Augmentation {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, ConfigError> {
        Self::read("augment", &text.into())
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(value: &Value) -> Result<Augmentation, String> {
        Augmentation::read("data.augment", value).map_err(|error| error.to_string())
    }

    #[test]
    fn names_texts_and_objects_mean_the_same() {
        let crop = Augmentation::from(Crop { padding: 2, edge: Edge::Reflect });
        assert_eq!(read(&json!("crop:padding=2:edge=reflect")).unwrap(), crop);
        assert_eq!(read(&json!({"edge": "reflect", "name": "crop", "padding": 2})).unwrap(), crop);
        assert_eq!(read(&json!({"name": "flip", "probability": null})).unwrap(), Flip::default().into());
        assert_eq!("rotate:degrees=.5".parse::<Augmentation>().unwrap(), Rotate { degrees: 0.5 }.into());
    }

    #[test]
    fn the_text_holds_what_differs_from_the_defaults_and_reads_back() {
        assert_eq!(Augmentation::all().map(|one| one.name()).collect::<Vec<_>>(), Augmentation::NAMES);
        for one in Augmentation::all() {
            assert_eq!(one.to_string(), one.name());
            assert_eq!(read(&object(&one).into()).unwrap(), one);
            assert_eq!(format!("{one:#}").parse::<Augmentation>().unwrap(), one);
        }
        assert_eq!(format!("{:#}", Augmentation::from(Crop::default())), "crop:padding=4:edge=background");
        for text in ["crop:padding=2", "affine:scale_max=2:degrees=0", "mixup:probability=0.25:alpha=1"] {
            let one: Augmentation = text.parse().unwrap();
            assert_eq!(one.to_string().parse::<Augmentation>().unwrap(), one);
            assert_eq!(one.to_string().len(), text.len(), "{one}");
        }
    }

    #[test]
    fn mistakes_are_told_with_the_path_of_the_parameter() {
        let checks = [
            (
                json!("flap"),
                "config: unknown augmentation `flap`; did you mean `flip`? Known: flip, shift, crop, resized-crop, \
                 rotate, affine, color, erase, mixup, cutmix",
            ),
            (
                json!("crop:pading=2"),
                "config: unknown key `data.augment.crop.pading`; did you mean `data.augment.crop.padding`?",
            ),
            (
                json!("flip:pixels=2"),
                "config: unknown key `data.augment.flip.pixels`; did you mean `data.augment.flip.probability`?",
            ),
            (json!("crop:padding=0"), "data.augment.crop.padding: expected 1 to 4096, found 0"),
            (json!("crop:padding=1.5"), "data.augment.crop.padding: expected a whole number, found 1.5"),
            (json!("crop:edge=mirror"), "data.augment.crop.edge: expected background or reflect, found \"mirror\""),
            (json!("flip:probability=1.5"), "data.augment.flip.probability: expected 0 to 1, found 1.5"),
            (json!({"name": "rotate", "degrees": 200}), "data.augment.rotate.degrees: expected 0 to 180, found 200"),
            (
                json!("erase:scale_min=0.5"),
                "data.augment.erase.scale_min: expected at most scale_max (0.33), found 0.5",
            ),
            (json!("resized-crop:scale_max=2"), "data.augment.resized-crop.scale_max: expected at most 1, found 2.0"),
            (
                json!("crop:2"),
                "data.augment: expected NAME or NAME:KEY=VALUE:KEY=VALUE, such as crop:padding=2, found \"crop:2\"",
            ),
            (
                json!("flip:alternate=true:probability=0.4"),
                "`data.augment.flip.alternate` true excludes `data.augment.flip.probability` (got 0.4)",
            ),
            (json!("flip:alternate=yes"), "data.augment.flip.alternate: expected true or false, found \"yes\""),
            (json!("crop:padding=2:padding=3"), "config: `data.augment.crop.padding` is given twice"),
            (
                json!({"padding": 2}),
                "data.augment: expected an object with the `name` of an augmentation, found {\"padding\":2}",
            ),
        ];
        for (value, expected) in checks {
            assert_eq!(read(&value).unwrap_err(), expected, "{value}");
        }
    }

    #[test]
    fn each_is_there_once_and_in_the_order_of_declaration() {
        let sorted = |texts: &[&str]| {
            let mut augmentations: Vec<Augmentation> = texts.iter().map(|text| text.parse().unwrap()).collect();
            let texts = |augmentations: Vec<Augmentation>| augmentations.iter().map(ToString::to_string).collect();
            let sorted = Augmentation::sort("data.augment", &mut augmentations);
            sorted.map(|()| texts(augmentations)).map_err(|error| error.to_string())
        };
        let expected: Vec<String> = ["flip", "shift", "erase"].map(str::to_owned).to_vec();
        assert_eq!(sorted(&["erase", "flip", "shift:pixels=2", "flip"]), Ok(expected));
        let twice = "data.augment: expected `crop` once, found crop:padding=2 and crop";
        assert_eq!(sorted(&["crop:padding=2", "crop"]), Err(twice.to_owned()));
    }
}
