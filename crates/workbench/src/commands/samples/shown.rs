use std::path::Path;

use anyhow::Result;
use kindling_data::ImageSet;
use kindling_report::{Picture, Pictures, table};

use super::augmented::Mixed;
use crate::{
    figure,
    outcome::Outcome,
    output::{notice, print},
    pictures,
};

/// Pictures in a row of a sheet.
const COLUMNS: usize = 5;

/// The images to show, with the classes of their set.
pub(super) struct Shown<'a> {
    /// As they are shown.
    pub(super) set: &'a ImageSet,
    /// Index of each in its split.
    pub(super) indices: &'a [usize],
    /// The files that they came from, where there are such.
    pub(super) files: Vec<Option<String>>,
    /// What is mixed into each; empty where nothing is.
    pub(super) mixed: Vec<Mixed>,
    pub(super) classes: &'a [String],
}

impl Shown<'_> {
    /// Label and class of the image at `place`.
    pub(super) fn class(&self, place: usize) -> (u16, &str) {
        let label = self.set.labels()[place];
        (label, self.named(label))
    }

    /// Label, class and share of what is mixed into the image at `place`.
    pub(super) fn other(&self, place: usize) -> Option<(u16, &str, f32)> {
        let (label, share) = (*self.mixed.get(place)?)?;
        Some((label, self.named(label), share))
    }

    fn named(&self, label: u16) -> &str {
        self.classes.get(usize::from(label)).map_or("", String::as_str)
    }

    /// The class of the image at `place`, or both of a mixed one with their shares: `cat 70 % dog 30 %`.
    fn classes_of(&self, place: usize) -> String {
        let (label, class) = self.class(place);
        match self.other(place) {
            Some((other, name, share)) if other != label => {
                let percent = (100.0 * share).round() as u8;
                format!("{class} {} % {name} {percent} %", 100 - percent)
            }
            _ => class.to_owned(),
        }
    }

    /// Label and class of the image at `place`, `7 Sneaker`, or the classes of a mixed one.
    fn caption(&self, place: usize) -> String {
        let (label, class) = self.class(place);
        let classes = self.classes_of(place);
        if classes == class { format!("{label} {class}") } else { classes }
    }

    /// The images with their classes, for a report or a file.
    pub(super) fn sheet(&self) -> Pictures {
        let [channels, height, width] = self.set.shape();
        let picture = |place: usize| Picture {
            caption: self.caption(place),
            size: [height, width],
            channels,
            pixels: self.set.image(place).to_vec(),
        };
        let count = self.indices.len();
        Pictures { columns: COLUMNS.min(count), pictures: (0..count).map(picture).collect() }
    }

    /// Writes the images as a sheet to a file, and says so.
    pub(super) fn write(&self, path: &Path) -> Outcome {
        let outcome = figure::keep(&self.sheet(), path);
        if outcome == Outcome::Done {
            let count = self.indices.len();
            let images = if count == 1 { "image" } else { "images" };
            notice(format_args!("{count} {images} in {}", path.display()));
        }
        outcome
    }

    /// Draws the images, as many side by side as the terminal has room for, with a caption under each.
    pub(super) fn draw(&self, columns: usize) -> Result<()> {
        let [_, _, width] = self.set.shape();
        let places: Vec<usize> = (0..self.indices.len()).collect();
        for row in places.chunks(pictures::beside(width, columns)) {
            let images = row.iter().map(|&place| pictures::of(self.set, place)).collect::<Result<Vec<_>>>()?;
            pictures::show(&images, columns)?;
            let (cell, room) = (width + pictures::GAP, width.min(columns));
            // Cut where it is longer than the image is wide.
            let captions = row.iter().map(|&place| {
                let file = self.files[place].as_ref().map_or_else(String::new, |file| format!(", {file}"));
                format!("{}, image {}{file}", self.caption(place), self.indices[place])
            });
            let line: Vec<String> = captions.map(|caption| format!("{caption:<cell$.room$}")).collect();
            print(format_args!("{}\n", line.concat().trim_end()));
        }
        Ok(())
    }

    /// The images as a table, where there is no terminal that can show them; with their files where they have some.
    pub(super) fn list(&self) -> String {
        let has_files = self.files.iter().any(Option::is_some);
        let columns = if has_files { 4 } else { 3 };
        let rows = self.indices.iter().enumerate().map(|(place, index)| {
            let (label, class) = (self.class(place).0, self.classes_of(place));
            let file = self.files[place].clone().unwrap_or_default();
            let mut row = vec![index.to_string(), label.to_string(), class, file];
            row.truncate(columns);
            row
        });
        table(&["index", "label", "class", "file"][..columns], &[0, 1], None, rows)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mixed_image_is_captioned_with_both_classes_and_their_shares() {
        let set = ImageSet::new(vec![0; 4], vec![0, 0, 1, 1], [1, 1, 1]).unwrap();
        let classes = ["cat", "dog"].map(str::to_owned);
        let mixed = vec![Some((1, 0.3)), None, Some((1, 0.4)), Some((0, 0.996))];
        let shown = Shown { set: &set, indices: &[0, 1, 2, 3], files: vec![None; 4], mixed, classes: &classes };
        let captions: Vec<_> = shown.sheet().pictures.into_iter().map(|picture| picture.caption).collect();
        assert_eq!(captions, ["cat 70 % dog 30 %", "0 cat", "1 dog", "dog 0 % cat 100 %"]);
        assert!(shown.list().contains("cat 70 % dog 30 %"), "{}", shown.list());
    }
}
