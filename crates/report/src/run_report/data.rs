//! What the images of the runs' data sets are, and how many of each class there are.

use kindling_record::{ClassCounts, ImagesRecord};

use crate::{
    document::{Block, TableBlock},
    run::{Group, Run, class_name},
    run_report::evaluation::class_block,
    table::{NONE, grouped},
};

/// From this ratio of the largest to the smallest class on, a training split is called uneven.
const UNEVEN: f64 = 1.5;
/// So many numbers of a list stand in the open.
const SHOWN: usize = 4;

/// Each data set of the groups: its images in words, the images of each class in each split, and the pictures that were
/// left out. Records without these numbers have nothing to say.
pub(crate) fn data_blocks(groups: &[Group]) -> Vec<Block> {
    let mut sets: Vec<(&Run, Vec<&str>)> = Vec::new();
    for group in groups {
        let Some(run) = group.runs.first() else { continue };
        let Some(images) = images(run) else { continue };
        match sets.iter_mut().find(|(first, _)| is_same(first, run, images)) {
            Some((_, labels)) => labels.push(&group.label),
            None => sets.push((run, vec![&group.label])),
        }
    }
    let several = sets.len() > 1;
    let blocks = |(run, labels): (&Run, Vec<&str>)| {
        let heading = several.then(|| Block::Heading(format!("{}: {}", run.record.dataset.name, labels.join(", "))));
        heading.into_iter().chain(images(run).map(|images| of_one(run, images)).unwrap_or_default()).collect::<Vec<_>>()
    };
    sets.into_iter().flat_map(blocks).collect()
}

/// The run's images, where their numbers are known.
fn images(run: &Run) -> Option<&ImagesRecord> {
    let images = run.record.dataset.images.as_ref()?;
    (images.counts != ClassCounts::default() || !images.skipped.is_empty()).then_some(images)
}

/// Whether two runs saw the same images in the same form.
fn is_same(first: &Run, run: &Run, images: &ImagesRecord) -> bool {
    first.record.dataset.sha256 == run.record.dataset.sha256 && first.record.dataset.images.as_ref() == Some(images)
}

fn of_one(run: &Run, images: &ImagesRecord) -> Vec<Block> {
    let mut blocks = vec![Block::List(in_words(images))];
    let classes = images.classes.len();
    if images.counts != ClassCounts::default() {
        blocks.push(class_block(Block::Table(count_table(run, images)), classes));
    }
    if !images.skipped.is_empty() {
        let count = images.skipped.len();
        let title = match count {
            1 => "1 picture could not be read and was left out".to_owned(),
            _ => format!("{} pictures could not be read and were left out", grouped(count)),
        };
        let files = images.skipped.iter().map(|file| format!("`{file}`")).collect();
        blocks.push(Block::Details(title, vec![Block::List(files)]));
    }
    blocks
}

/// The images' size, how they came by it, their normalization, and how uneven their classes are.
fn in_words(images: &ImagesRecord) -> Vec<String> {
    let channels = match images.channels {
        1 => "grey".to_owned(),
        3 => "red, green and blue".to_owned(),
        channels => format!("{channels} channels"),
    };
    let fit = match images.fit.as_deref() {
        None => String::new(),
        Some("crop") => "; pictures are scaled until they cover it, and their middle is taken (`crop`)".to_owned(),
        Some("pad") => {
            "; pictures are scaled until they fit into it, and padded with their background (`pad`)".to_owned()
        }
        Some("stretch") => "; pictures are scaled without regard to their aspect (`stretch`)".to_owned(),
        Some(other) => format!("; pictures are brought to it by `{other}`"),
    };
    let mut lines =
        vec![format!("Images: {} x {} pixels (height x width), {channels}{fit}", images.height, images.width)];
    if !images.pixel_mean.is_empty() {
        let [mean, std] = [&images.pixel_mean, &images.pixel_std].map(|numbers| listed(numbers));
        lines.push(format!("Normalization: pixels in 0 to 1 minus `{mean}`, divided by `{std}`"));
    }
    lines.extend(unevenness(images));
    lines
}

fn listed(numbers: &[f64]) -> String {
    let shown = numbers.iter().take(SHOWN).map(|number| {
        let text = number.to_string();
        if text.len() > 8 { format!("{number:.6}") } else { text }
    });
    shown.collect::<Vec<_>>().join(", ")
}

/// How many times as many images the largest class of the training split has as the smallest, where it is uneven.
fn unevenness(images: &ImagesRecord) -> Option<String> {
    let counts = || images.counts.train.iter().enumerate();
    let (largest, most) = counts().max_by_key(|(label, count)| (**count, usize::MAX - label))?;
    let (smallest, least) = counts().min_by_key(|(_, count)| **count)?;
    let name = |label: usize| images.classes.get(label).map_or_else(|| label.to_string(), Clone::clone);
    let [largest, smallest] = [largest, smallest].map(name);
    let ratio = *most as f64 / *least as f64;
    (ratio > UNEVEN).then(|| {
        let [most, least] = [*most, *least].map(grouped);
        let times = if ratio.is_finite() { format!("{ratio:.1} to 1") } else { "a class has no images".to_owned() };
        format!("Uneven classes in the train split, {times}: {largest} has {most} images, {smallest} {least}")
    })
}

/// Images of each class in each split.
fn count_table(run: &Run, images: &ImagesRecord) -> TableBlock {
    let counts = &images.counts;
    let splits = [("train", &counts.train), ("valid", &counts.valid), ("test", &counts.test)];
    let splits: Vec<_> = splits.into_iter().filter(|(_, counts)| !counts.is_empty()).collect();
    let classes = splits.iter().map(|(_, counts)| counts.len()).max().unwrap_or_default();
    let row = |label: usize| {
        let cells = splits.iter().map(|(_, counts)| counts.get(label).map_or_else(|| NONE.to_owned(), |n| grouped(*n)));
        std::iter::once(class_name(&run.record, label)).chain(cells).collect()
    };
    let totals = splits.iter().map(|(split, counts)| format!("{split} {}", grouped(counts.iter().sum())));
    let totals: Vec<String> = totals.collect();
    let fold = run.fold().map_or_else(String::new, |fold| format!(", of fold {fold}"));
    TableBlock {
        caption: format!("Images of each class in each split{fold}; of all classes: {}.", totals.join(", ")),
        header: std::iter::once("class").chain(splits.iter().map(|(split, _)| *split)).map(str::to_owned).collect(),
        right: (1..=splits.len()).collect(),
        rows: (0..classes).map(row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::{group, run_report::fixtures::run};

    fn blocks(dataset: &Value) -> Vec<Block> {
        let place = tempfile::tempdir().unwrap();
        data_blocks(&group(vec![run(place.path(), "mlp-1", json!({ "dataset": dataset }))]))
    }

    #[test]
    fn a_set_has_its_images_in_words_and_the_counts_of_each_class_in_the_splits_it_has() {
        let dataset = json!({
            "channels": 3, "height": 32, "width": 48, "fit": "pad", "pixel_mean": [0.5, 0.25, 1.0 / 3.0],
            "pixel_std": [0.5], "counts": { "train": [5000, 100], "valid": [], "test": [10] },
            "skipped": ["train/Bag/7.jpg"],
        });
        let blocks = blocks(&dataset);
        let [Block::List(lines), Block::Table(counts), Block::Details(title, _)] = &blocks[..] else {
            panic!("{blocks:?}")
        };
        assert!(lines[0].starts_with("Images: 32 x 48 pixels (height x width), red, green and blue; pictures are"));
        assert_eq!(lines[1], "Normalization: pixels in 0 to 1 minus `0.5, 0.25, 0.333333`, divided by `0.5`");
        let uneven = "Uneven classes in the train split, 50.0 to 1: Coat has 5,000 images, Bag 100";
        assert_eq!(lines[2], uneven);
        assert_eq!(counts.header, ["class", "train", "test"]);
        assert_eq!(counts.rows, [["Coat", "5,000", "10"], ["Bag", "100", NONE]]);
        assert!(counts.caption.ends_with("of all classes: train 5,100, test 10."), "{}", counts.caption);
        assert_eq!(title, "1 picture could not be read and was left out");
    }

    #[test]
    fn an_even_set_is_not_called_uneven_an_empty_class_is_named_and_an_old_record_says_nothing() {
        let of = |counts: [usize; 2]| match &blocks(&json!({ "counts": { "train": counts } }))[0] {
            Block::List(lines) => lines.clone(),
            other => panic!("{other:?}"),
        };
        assert_eq!(of([15, 10]).len(), 1);
        assert_eq!(of([16, 10])[1], "Uneven classes in the train split, 1.6 to 1: Coat has 16 images, Bag 10");
        assert!(of([0, 10])[1].contains("a class has no images: Bag has 10 images, Coat 0"));
        assert!(blocks(&json!({})).is_empty());
    }
}
