use anyhow::Result;
use burn::tensor::Device;
use kindling_classification::train_source;
use kindling_config::Config;
use kindling_data::{ImageData, ImageSet, ImageSource, Normalization};
use kindling_training::{Rows, Source};

/// What is mixed into an image: the label of the other one, and its share from 0 to 1.
pub(super) type Mixed = Option<(u16, f32)>;

/// The training split as an epoch sees it, before normalization.
pub(super) struct Augmented {
    source: ImageSource,
    epoch: usize,
    images: Vec<usize>,
}

impl Augmented {
    /// `set` is the training split of `data`; `epoch` counts from 1.
    pub(super) fn new(config: &Config, data: &ImageData, set: &ImageSet, epoch: usize) -> Self {
        let source = train_source(config, data, set.clone(), &Normalization::default(), None);
        Self { images: source.images_of(epoch), source, epoch }
    }

    /// The image of the split that is at each place of the epoch.
    pub(super) fn images(&self) -> &[usize] {
        &self.images
    }

    /// The images at these places with their labels, and what is mixed into each; `device` has no autodiff.
    pub(super) fn show(&self, places: &[usize], device: &Device) -> Result<(ImageSet, Vec<Mixed>)> {
        let rows = Rows::new(places, self.epoch);
        let pixels = self.source.pixels(&rows).iter().map(|pixel| (pixel * 255.0).round() as u8).collect();
        let batch = self.source.batch(&rows, device).map_err(anyhow::Error::from_boxed)?;
        let labels: Vec<u16> = batch.targets.try_into_data()?.iter::<i64>().map(|label| label as u16).collect();
        let mixed = match batch.mixed {
            None => Vec::new(),
            Some(mixed) => {
                let (others, shares) = (mixed.targets.try_into_data()?, mixed.share.try_into_data()?);
                let pairs = others.iter::<i64>().zip(shares.iter::<f32>());
                pairs.map(|(other, share)| (share > 0.0).then_some((other as u16, share))).collect()
            }
        };
        Ok((ImageSet::new(pixels, labels, self.source.set().shape())?, mixed))
    }
}

#[cfg(test)]
mod tests {
    use kindling_config::Partial;
    use kindling_data::synthetic;

    use super::*;
    use crate::Workbench;

    fn config(keys: &[(&str, &str)]) -> Config {
        let registry = Workbench::new("kindling").registry();
        let keys = [&[("network.name", "mlp"), ("data.name", "synthetic")], keys].concat();
        let with = |partial: Partial, (key, text): &(&str, &str)| partial.with_text(key, text, &registry).unwrap();
        keys.iter().fold(Partial::default(), with).resolve(&registry).unwrap()
    }

    #[test]
    fn augmented_images_are_those_of_their_epoch_and_keep_their_classes() {
        let (config, data) = (config(&[("data.augment", "shift")]), synthetic::draw());
        let set = &data.train;
        let indices: Vec<usize> = (0..20).collect();
        let epoch = |epoch| {
            let (shown, mixed) = Augmented::new(&config, &data, set, epoch).show(&indices, &Device::flex()).unwrap();
            assert!(mixed.is_empty());
            shown
        };
        let pixels = |set: &ImageSet| (0..20).map(|index| set.image(index).to_vec()).collect::<Vec<_>>();
        assert_eq!((epoch(1).shape(), epoch(1).labels()), (set.shape(), &set.labels()[..20]));
        assert_eq!(pixels(&epoch(1)), pixels(&epoch(1)));
        assert_ne!(pixels(&epoch(1)), pixels(&epoch(2)));
        // Moved by up to two pixels in both directions: what stays inside is a window of the image.
        let is_moved = |(found, image): (&Vec<u8>, &Vec<u8>)| {
            (0..25).any(|offset| {
                let (down, right) = (offset / 5, offset % 5);
                let window = |row: usize| &image[(row + down) * 28 + right..][..24];
                (0..24).all(|row| found[(row + 2) * 28 + 2..][..24] == *window(row))
            })
        };
        assert!(pixels(&epoch(1)).iter().zip(&pixels(set)).all(is_moved));
    }

    #[test]
    fn a_balanced_epoch_shows_the_images_that_the_sampler_draws() {
        let mut data = synthetic::draw();
        // All images of class 0, and a few of the others.
        let labels = data.train.labels().iter().enumerate();
        let few: Vec<usize> =
            labels.filter(|&(index, &label)| label == 0 || index < 200).map(|(index, _)| index).collect();
        data.train = data.train.select(&few);
        let config = config(&[("data.sampler", "balanced")]);
        let epoch = Augmented::new(&config, &data, &data.train, 3);
        let places: Vec<usize> = (0..data.train.count()).collect();
        let (shown, _) = epoch.show(&places, &Device::flex()).unwrap();
        let counts = shown.class_counts(10);
        assert!(counts.iter().max().unwrap() - counts.iter().min().unwrap() <= 1, "{counts:?}");
        for (place, &image) in epoch.images().iter().enumerate() {
            assert_eq!(shown.image(place), data.train.image(image));
            assert_eq!(shown.labels()[place], data.train.labels()[image]);
        }
    }

    #[test]
    fn what_is_mixed_into_an_image_is_told_with_its_share() {
        let (config, data) = (config(&[("data.augment", "mixup:alpha=1")]), synthetic::draw());
        let epoch = Augmented::new(&config, &data, &data.train, 1);
        let (shown, mixed) = epoch.show(&[0, 1, 2, 3], &Device::flex()).unwrap();
        assert_eq!((shown.labels(), mixed.len()), (&data.train.labels()[..4], 4));
        let [(_, first), (_, second), ..] = mixed.into_iter().flatten().collect::<Vec<_>>()[..] else {
            panic!("nothing is mixed in")
        };
        assert!((0.0..=1.0).contains(&first) && (first - second).abs() > 1e-6);
    }
}
