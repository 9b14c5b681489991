//! What the networks of a claim get wrong, each and all together.

use std::collections::BTreeMap;

use kindling_data::ImageSet;
use kindling_report::{
    Block, Figure, Picture, Pictures, ReportError, Run, SharedMistake, SharedMistakes, TableBlock, evaluations,
    grouped, mistake_blocks, repeated_evaluation_blocks, shared_mistakes,
};

/// Pictures beside one another, and how many there are at most.
const COLUMNS: usize = 6;
const PICTURES: usize = 36;
/// Pairs of classes in the table of shared mistakes.
const PAIRS: usize = 12;

/// Confusion, classes and calibration over all seeds, and the surest mistakes of the first.
pub(super) fn evaluated(runs: &[Run]) -> Result<Vec<Block>, ReportError> {
    let mut blocks = repeated_evaluation_blocks(runs, "seeds")?;
    for run in runs {
        if let Some(evaluation) = run.directory.read_evaluation()? {
            blocks.extend(mistake_blocks(run, &evaluation, "seeds-mistakes")?);
            break;
        }
    }
    if blocks.is_empty() && !runs.is_empty() {
        blocks.push(Block::Paragraph("No seed is evaluated yet: `kindling evaluate RUN` does it.".to_owned()));
    }
    Ok(blocks)
}

/// How many mistakes all seeds share, of which classes they are, and what the surest look like.
pub(super) fn shared(runs: &[Run], test: Option<&ImageSet>) -> Result<Vec<Block>, ReportError> {
    let evaluations = evaluations(runs)?;
    let Some(found) = shared_mistakes(&evaluations) else {
        let again = "The evaluations do not list all mistakes, or not of the same images: `kindling evaluate RUN` makes one \
                    again.";
        return Ok((evaluations.len() > 1).then(|| Block::Paragraph(again.to_owned())).into_iter().collect());
    };
    let classes = runs.first().map_or(&[][..], |run| run.record.dataset.classes());
    let agreed: Vec<&SharedMistake> = found.shared.iter().filter(|one| one.agreed().is_some()).collect();
    let mut blocks = vec![Block::Paragraph(said(&found, agreed.len())), Block::Table(wrong_by(&found))];
    if !agreed.is_empty() {
        blocks.push(Block::Table(pairs(&agreed, classes)));
    }
    let pictures: Vec<Picture> = test.map_or_else(Vec::new, |test| {
        agreed.iter().filter_map(|one| picture(one, test, classes)).take(PICTURES).collect()
    });
    if !pictures.is_empty() {
        let caption = format!(
            "Test images that all {} networks take for the same wrong class, the {} with the highest mean probability of \
             it: place in the test file, label, what the networks say, and that probability.",
            found.networks,
            pictures.len()
        );
        let plot = Pictures { columns: COLUMNS.min(pictures.len()), pictures };
        blocks.push(Block::Pictures(Figure { name: "shared-mistakes".to_owned(), caption, plot }));
    }
    if !found.shared.is_empty() {
        let title = format!("All {} images that every network gets wrong", grouped(found.shared.len()));
        blocks.push(Block::Details(title, vec![Block::Table(listed(&found.shared, classes))]));
    }
    Ok(blocks)
}

fn said(found: &SharedMistakes, agreed: usize) -> String {
    let SharedMistakes { networks, images, expected, vote_accuracy, shared, .. } = found;
    let chance = if *expected < 1.0 { "less than one".to_owned() } else { format!("about {expected:.0}") };
    format!(
        "All {networks} networks misclassify {} of {} test images, and say the same class for {} of these. If each \
         network's mistakes fell on images at random, they would share {chance}. The class that most networks vote for is \
         right for {:.2} % of the images, where a tie counts as wrong.",
        grouped(shared.len()),
        grouped(*images),
        grouped(agreed),
        vote_accuracy * 100.0
    )
}

fn wrong_by(found: &SharedMistakes) -> TableBlock {
    let share = |count: usize| format!("{:.2} %", 100.0 * count as f64 / found.images.max(1) as f64);
    let row = |(networks, &count): (usize, &usize)| vec![networks.to_string(), grouped(count), share(count)];
    TableBlock {
        caption: format!("Test images by how many of the {} networks get them wrong.", found.networks),
        header: ["networks that are wrong", "images", "share"].map(str::to_owned).to_vec(),
        right: vec![0, 1, 2],
        rows: found.wrong_by.iter().enumerate().map(row).collect(),
    }
}

/// The classes of the mistakes that all agree on, the most frequent first.
fn pairs(agreed: &[&SharedMistake], classes: &[String]) -> TableBlock {
    let mut counts: BTreeMap<(usize, usize), usize> = BTreeMap::new();
    for one in agreed {
        *counts.entry((one.target, one.predicted[0])).or_default() += 1;
    }
    let mut pairs: Vec<_> = counts.into_iter().collect();
    pairs.sort_by(|(_, a), (_, b)| b.cmp(a));
    let row = |&((target, predicted), count): &((usize, usize), usize)| {
        vec![name(classes, target), name(classes, predicted), grouped(count)]
    };
    TableBlock {
        caption:
            "The mistakes that all networks agree on, by the label and by the class that they say; the most frequent \
                  pairs."
                .to_owned(),
        header: ["label", "taken for", "images"].map(str::to_owned).to_vec(),
        right: vec![2],
        rows: pairs.iter().take(PAIRS).map(row).collect(),
    }
}

fn listed(shared: &[SharedMistake], classes: &[String]) -> TableBlock {
    let row = |one: &SharedMistake| {
        let mut said: BTreeMap<usize, usize> = BTreeMap::new();
        one.predicted.iter().for_each(|&class| *said.entry(class).or_default() += 1);
        let mut said: Vec<_> = said.into_iter().collect();
        said.sort_by(|(_, a), (_, b)| b.cmp(a));
        let count = |count: usize| if count == one.predicted.len() { String::new() } else { format!(" ({count})") };
        let said = said.into_iter().map(|(class, votes)| name(classes, class) + &count(votes));
        let said = said.collect::<Vec<_>>().join(", ");
        vec![one.index.to_string(), name(classes, one.target), said, format!("{:.3}", one.confidence)]
    };
    TableBlock {
        caption: "The highest mean probability first; where networks do not agree, how many say each class.".to_owned(),
        header: ["index", "label", "taken for", "mean probability"].map(str::to_owned).to_vec(),
        right: vec![0, 3],
        rows: shared.iter().map(row).collect(),
    }
}

/// The image of a mistake; nothing where the split does not have it.
fn picture(one: &SharedMistake, test: &ImageSet, classes: &[String]) -> Option<Picture> {
    if one.index >= test.count() {
        return None;
    }
    let [channels, height, width] = test.shape();
    let said = name(classes, one.agreed()?);
    let caption = format!("{}: {} as {said}, {:.3}", one.index, name(classes, one.target), one.confidence);
    Some(Picture { caption, size: [height, width], channels, pixels: test.image(one.index).to_vec() })
}

/// The name of a class; its label where it has none.
fn name(classes: &[String], label: usize) -> String {
    classes.get(label).cloned().unwrap_or_else(|| label.to_string())
}

#[cfg(test)]
mod tests {
    use super::{
        super::tests::{evaluate, run},
        *,
    };

    #[test]
    fn shared_mistakes_are_counted_listed_and_shown_where_all_say_the_same() {
        let place = tempfile::tempdir().unwrap();
        let runs = [1, 2, 3].map(|seed| run(place.path(), seed, &[0.5]));
        evaluate(&runs[0], &[(1, 0, 1, 0.5), (2, 1, 0, 0.5), (3, 1, 0, 0.9)]);
        evaluate(&runs[1], &[(1, 0, 1, 0.5), (3, 1, 0, 0.8)]);
        evaluate(&runs[2], &[(1, 0, 2, 0.5), (3, 1, 0, 0.7)]);
        let test = ImageSet::new((0..16).collect(), vec![0, 0, 1, 1], [1, 2, 2]).unwrap();
        let blocks = shared(&runs, Some(&test)).unwrap();
        let [
            Block::Paragraph(said),
            Block::Table(counts),
            Block::Table(pairs),
            Block::Pictures(pictures),
            Block::Details(title, inner),
        ] = &blocks[..]
        else {
            panic!("{blocks:?}")
        };
        assert!(
            said.starts_with("All 3 networks misclassify 2 of 4 test images, and say the same class for 1"),
            "{said}"
        );
        // 4 * (3 / 4) * (2 / 4) * (2 / 4), and the vote is wrong for images 1 and 3.
        assert!(said.contains("less than one") && said.contains("right for 50.00 %"), "{said}");
        assert_eq!(counts.rows.iter().map(|row| row[1].as_str()).collect::<Vec<_>>(), ["1", "1", "0", "2"]);
        assert_eq!(pairs.rows, [["Bag", "Coat", "1"]]);
        let [picture] = &pictures.plot.pictures[..] else { panic!("{:?}", pictures.plot) };
        assert_eq!((picture.caption.as_str(), &picture.pixels[..]), ("3: Bag as Coat, 0.800", &[12, 13, 14, 15][..]));
        assert_eq!(title, "All 2 images that every network gets wrong");
        let [Block::Table(listed)] = &inner[..] else { panic!("{inner:?}") };
        assert_eq!(listed.rows, [["3", "Bag", "Coat", "0.800"], ["1", "Coat", "Bag (2), 2 (1)", "0.500"]]);
        // Of another set, or without its images, there are no pictures.
        let small = ImageSet::new(vec![0; 4], vec![0], [1, 2, 2]).unwrap();
        for test in [None, Some(&small)] {
            assert_eq!(shared(&runs, test).unwrap().len(), 4);
        }
    }

    #[test]
    fn evaluations_of_earlier_versions_are_to_be_made_again() {
        let place = tempfile::tempdir().unwrap();
        let runs = [1, 2].map(|seed| run(place.path(), seed, &[0.5]));
        for run in &runs {
            evaluate(run, &[(1, 0, 1, 0.5)]);
        }
        let older = kindling_record::EvaluationRecord {
            misclassified: None,
            ..runs[0].directory.read_evaluation().unwrap().unwrap()
        };
        runs[0].directory.write_evaluation(&older).unwrap();
        assert!(matches!(&shared(&runs, None).unwrap()[..], [Block::Paragraph(text)] if text.contains("evaluate RUN")));
    }

    #[test]
    fn one_network_shares_no_mistakes_and_without_evaluations_the_report_says_so() {
        let place = tempfile::tempdir().unwrap();
        let runs = [run(place.path(), 1, &[0.5])];
        assert!(evaluated(&[]).unwrap().is_empty());
        assert!(matches!(&evaluated(&runs).unwrap()[..], [Block::Paragraph(text)] if text.contains("evaluate RUN")));
        evaluate(&runs[0], &[(1, 0, 1, 0.5)]);
        let blocks = evaluated(&runs).unwrap();
        assert!(matches!(&blocks[..], [Block::Confusion(_), Block::Table(_), Block::Chart(_)]), "{blocks:?}");
        assert!(shared(&runs, None).unwrap().is_empty());
    }
}
