use std::fmt;

use crate::{ImageData, error::listed};

/// A problem with the labels of a data set that prevents learning; its `Display` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelProblem {
    /// All training images have the same label.
    OneClass {
        /// Name of their class.
        class: String,
    },
    /// Test images have classes that no training image has.
    OnlyInTest {
        /// Names of these classes.
        classes: Vec<String>,
        /// Number of test images that have them.
        images: usize,
    },
    /// No image has classes that the set names.
    MissingFromTrain {
        /// Names of these classes.
        classes: Vec<String>,
    },
}

impl LabelProblem {
    /// Whether nothing at all can be learned.
    #[must_use]
    pub fn prevents_learning(&self) -> bool {
        matches!(self, Self::OneClass { .. })
    }
}

impl fmt::Display for LabelProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = |classes: &[String]| {
            let (noun, them) = if classes.len() == 1 { ("class", "it") } else { ("classes", "them") };
            (format!("{noun} {}", listed(classes.iter().map(|class| format!("`{class}`")))), them)
        };
        match self {
            Self::OneClass { class } => {
                write!(f, "the training images have one class, `{class}`: there is nothing to tell apart and to learn")
            }
            Self::OnlyInTest { classes, images } => {
                let (classes, them) = named(classes);
                write!(f, "only test images ({images}) have the {classes}: the network cannot learn {them}")
            }
            Self::MissingFromTrain { classes } => {
                let (classes, them) = named(classes);
                write!(f, "no image has the {classes}: the network cannot learn {them}")
            }
        }
    }
}

impl ImageData {
    /// What about the labels keeps a network from learning some classes or all of them, each problem once.
    ///
    /// A class that no image has is a problem unless it is [`unused`](Self::unused), or [`LabelProblem::OneClass`] says
    /// it all.
    #[must_use]
    pub fn label_problems(&self) -> Vec<LabelProblem> {
        let [train, test] = [&self.train, &self.test].map(|set| set.class_counts(self.classes.len()));
        let names_where = |is_meant: &dyn Fn(usize) -> bool| -> Vec<String> {
            let labels = (0..self.classes.len()).filter(|&label| is_meant(label));
            labels.map(|label| self.classes[label].clone()).collect()
        };
        let mut problems = Vec::new();
        let trained = names_where(&|label| train[label] > 0);
        if let [class] = &trained[..] {
            problems.push(LabelProblem::OneClass { class: class.clone() });
        }
        let classes = names_where(&|label| train[label] == 0 && test[label] > 0);
        if !classes.is_empty() {
            let images = (0..test.len()).filter(|&label| train[label] == 0).map(|label| test[label]).sum();
            problems.push(LabelProblem::OnlyInTest { classes, images });
        }
        let classes = names_where(&|label| train[label] + test[label] == 0 && !self.unused.contains(&label));
        if !classes.is_empty() && trained.len() > 1 {
            problems.push(LabelProblem::MissingFromTrain { classes });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{ImageSet, synthetic};

    /// What is said of a set with these labels in train and test, and four classes of which the last is unused.
    fn problems(train: &[u16], test: &[u16]) -> Vec<String> {
        let set = |labels: &[u16]| ImageSet::new(vec![0; labels.len()], labels.to_vec(), [1, 1, 1]).unwrap();
        let classes = ["a", "b", "c", "3"].map(str::to_owned).to_vec();
        let data = ImageData { unused: vec![3], ..ImageData::new("idx", classes, set(train), set(test)).unwrap() };
        let problems = data.label_problems();
        assert_eq!(problems.iter().any(LabelProblem::prevents_learning), train.iter().all(|label| *label == train[0]));
        problems.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn each_problem_of_the_labels_is_told_once() {
        let one = |class| {
            format!("the training images have one class, `{class}`: there is nothing to tell apart and to learn")
        };
        let learn = ": the network cannot learn";
        assert_eq!(problems(&[0, 1, 2], &[0]), [""; 0]);
        assert_eq!(problems(&[1, 1], &[1]), [one("b")]);
        assert_eq!(problems(&[0, 2], &[0, 2]), [format!("no image has the class `b`{learn} it")]);
        assert_eq!(
            problems(&[0, 1], &[0, 2, 3, 2]),
            [format!("only test images (3) have the classes `c`, `3`{learn} them")]
        );
        assert_eq!(problems(&[0, 0], &[2]), [one("a"), format!("only test images (1) have the class `c`{learn} it")]);
    }

    #[test]
    fn the_drawn_set_has_no_problem() {
        assert_eq!(synthetic::draw().label_problems(), []);
    }
}
