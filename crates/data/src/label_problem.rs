use std::fmt;

use crate::{ImageData, ImageSet, error::listed};

/// A problem with the labels of a data set that prevents learning; its `Display` describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LabelProblem {
    /// All training images have the same label.
    OneClass {
        /// Name of their class.
        class: String,
    },
    /// Validation or test images have classes that no training image has.
    NotInTrain {
        /// Names of these classes.
        classes: Vec<String>,
        /// Number of validation and of test images that have them.
        images: [usize; 2],
    },
    /// No image has classes that the set names.
    Missing {
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
            Self::NotInTrain { classes, images } => {
                let (classes, them) = named(classes);
                let images = match images {
                    [0, test] => format!("test images ({test})"),
                    [valid, 0] => format!("validation images ({valid})"),
                    [valid, test] => format!("validation and test images ({valid} and {test})"),
                };
                write!(f, "only {images} have the {classes}: the network cannot learn {them}")
            }
            Self::Missing { classes } => {
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
        let counts = |set: &ImageSet| set.class_counts(self.classes.len());
        let (train, test) = (counts(&self.train), counts(&self.test));
        let valid = self.valid.as_ref().map_or_else(|| vec![0; test.len()], counts);
        let names_where = |is_meant: &dyn Fn(usize) -> bool| -> Vec<String> {
            let labels = (0..self.classes.len()).filter(|&label| is_meant(label));
            labels.map(|label| self.classes[label].clone()).collect()
        };
        let mut problems = Vec::new();
        let trained = names_where(&|label| train[label] > 0);
        if let [class] = &trained[..] {
            problems.push(LabelProblem::OneClass { class: class.clone() });
        }
        let classes = names_where(&|label| train[label] == 0 && valid[label] + test[label] > 0);
        if !classes.is_empty() {
            let untrained = || (0..train.len()).filter(|&label| train[label] == 0);
            let images = [&valid, &test].map(|counts| untrained().map(|label| counts[label]).sum());
            problems.push(LabelProblem::NotInTrain { classes, images });
        }
        let is_missing = |label: usize| train[label] + valid[label] + test[label] == 0;
        let classes = names_where(&|label| is_missing(label) && !self.unused.contains(&label));
        if !classes.is_empty() && trained.len() > 1 {
            problems.push(LabelProblem::Missing { classes });
        }
        problems
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::synthetic;

    /// What is said of a set with these labels in train and test, and four classes of which the last is unused.
    fn problems(train: &[u16], test: &[u16]) -> Vec<String> {
        problems_with(train, &[], test)
    }

    /// As [`problems`], with a validation split of these labels where there are any.
    fn problems_with(train: &[u16], valid: &[u16], test: &[u16]) -> Vec<String> {
        let set = |labels: &[u16]| ImageSet::new(vec![0; labels.len()], labels.to_vec(), [1, 1, 1]).unwrap();
        let classes = ["a", "b", "c", "3"].map(str::to_owned).to_vec();
        let data = ImageData::new("idx", classes, set(train), set(test)).unwrap();
        let data = ImageData { unused: vec![3], valid: (!valid.is_empty()).then(|| set(valid)), ..data };
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
    fn the_sets_own_validation_split_counts_as_well() {
        let learn = ": the network cannot learn it";
        assert_eq!(
            problems_with(&[0, 1], &[2, 2, 0], &[0]),
            [format!("only validation images (2) have the class `c`{learn}")]
        );
        assert_eq!(
            problems_with(&[0, 1], &[2, 2], &[2]),
            [format!("only validation and test images (2 and 1) have the class `c`{learn}")]
        );
        assert_eq!(problems_with(&[0, 1], &[0], &[0]), [format!("no image has the class `c`{learn}")]);
    }

    #[test]
    fn the_drawn_set_has_no_problem() {
        assert_eq!(synthetic::draw().label_problems(), []);
    }
}
