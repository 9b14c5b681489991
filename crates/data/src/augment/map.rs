use std::ops::Range;

/// Where each pixel of a changed image comes from: an affine map from its column and row to those in the image.
///
/// Changes are appended in the order in which they are done, so that an image is sampled once, however many there are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Map {
    /// `[a, b, c, d, e, f]`: column `x` and row `y` come from column `a x + b y + c` and row `d x + e y + f`.
    pub(crate) matrix: [f64; 6],
    /// Smallest and largest column, then row, that are sampled; what lies beyond is taken from there.
    pub(crate) bounds: Option<[[f64; 2]; 2]>,
}

/// A map by whole pixels, for which rows are copied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Whole {
    /// Whether the image is mirrored left to right, before it is moved.
    pub(crate) is_mirrored: bool,
    /// A row comes from the row so many further down.
    pub(crate) down: isize,
    /// A column comes from the column so many further right.
    pub(crate) right: isize,
}

/// What `torchvision.transforms.functional.affine` takes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Affine {
    /// Clockwise, in degrees.
    pub(crate) angle: f64,
    /// Pixels to the right and down.
    pub(crate) translate: [f64; 2],
    pub(crate) scale: f64,
    /// Of the columns, in degrees.
    pub(crate) shear: f64,
}

impl Map {
    pub(crate) const IDENTITY: Self = Self { matrix: [1.0, 0.0, 0.0, 0.0, 1.0, 0.0], bounds: None };

    /// Then mirrors left to right.
    pub(crate) fn flip(self, width: usize) -> Self {
        self.then([-1.0, 0.0, width as f64 - 1.0, 0.0, 1.0, 0.0])
    }

    /// Then takes each row from `down` rows below and each column from `right` columns to the right.
    pub(crate) fn shift(self, down: isize, right: isize) -> Self {
        self.then([1.0, 0.0, right as f64, 0.0, 1.0, down as f64])
    }

    /// Then enlarges these rows and columns to the whole image: torchvision's `resized_crop`, which repeats what is at
    /// the edges of the crop. A change after it samples beyond them.
    pub(crate) fn resized_crop(self, [rows, columns]: &[Range<usize>; 2], [height, width]: [usize; 2]) -> Self {
        let scale = |part: &Range<usize>, side: usize| {
            let factor = part.len() as f64 / side as f64;
            (factor, part.start as f64 + 0.5 * factor - 0.5)
        };
        let ((vertical, top), (horizontal, left)) = (scale(rows, height), scale(columns, width));
        let [a, _, c, _, e, f] = self.matrix;
        // Flip and shift, which come before, mix no rows with columns.
        let bound = |factor: f64, offset: f64, part: &Range<usize>| {
            let [first, last] = [part.start, part.end - 1].map(|place| factor * place as f64 + offset);
            [first.min(last), first.max(last)]
        };
        let bounds = Some([bound(a, c, columns), bound(e, f, rows)]);
        Self { bounds, ..self.then([horizontal, 0.0, left, 0.0, vertical, top]) }
    }

    /// Then does what torchvision's `affine` does, about the middle.
    pub(crate) fn affine(self, change: Affine, [height, width]: [usize; 2]) -> Self {
        let (angle, shear) = (change.angle.to_radians(), change.shear.to_radians());
        // libm has the same bits on every machine; the system's functions have not.
        let (sin, cos, tan) = (libm::sin(angle), libm::cos(angle), libm::tan(shear));
        let [a, b, d, e] = [cos - sin * tan, cos * tan + sin, -sin, cos].map(|coefficient| coefficient / change.scale);
        let middle = [width, height].map(|side| (side as f64 - 1.0) / 2.0);
        let from = |a: f64, b: f64, middle_of: f64| {
            -(a * change.translate[0] + b * change.translate[1]) + (middle_of - (a * middle[0] + b * middle[1]))
        };
        self.then([a, b, from(a, b, middle[0]), d, e, from(d, e, middle[1])])
    }

    /// Then rotates about the middle, counter-clockwise by so many degrees: torchvision's `rotate`.
    pub(crate) fn rotate(self, angle: f64, size: [usize; 2]) -> Self {
        self.affine(Affine { angle: -angle, translate: [0.0; 2], scale: 1.0, shear: 0.0 }, size)
    }

    /// `self` of the places where `next` takes its pixels from.
    #[allow(clippy::many_single_char_names)] // A matrix is written so.
    fn then(self, next: [f64; 6]) -> Self {
        let row = |a: f64, b: f64, c: f64| {
            [a * next[0] + b * next[3], a * next[1] + b * next[4], a * next[2] + b * next[5] + c]
        };
        let [a, b, c, d, e, f] = self.matrix;
        let ([a, b, c], [d, e, f]) = (row(a, b, c), row(d, e, f));
        Self { matrix: [a, b, c, d, e, f], bounds: None }
    }

    /// The same map in whole pixels, where it is one.
    #[allow(clippy::many_single_char_names)] // As above.
    pub(crate) fn whole(&self, width: usize) -> Option<Whole> {
        let [a, b, c, d, e, f] = self.matrix;
        let is_whole = [a.abs() - 1.0, b, c.fract(), d, e - 1.0, f.fract()].iter().all(|&rest| rest == 0.0);
        is_whole.then(|| {
            let (is_mirrored, c) = (a < 0.0, c as isize);
            Whole { is_mirrored, down: f as isize, right: if is_mirrored { width as isize - 1 - c } else { c } }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flips_shifts_and_changes_by_nothing_are_whole_pixels_and_others_are_not() {
        let size = [6, 8];
        let whole = |map: Map| map.whole(8);
        let moved = |is_mirrored, down, right| Some(Whole { is_mirrored, down, right });
        assert_eq!(whole(Map::IDENTITY), moved(false, 0, 0));
        assert_eq!(whole(Map::IDENTITY.flip(8)), moved(true, 0, 0));
        assert_eq!(whole(Map::IDENTITY.flip(8).flip(8).shift(1, -2)), moved(false, 1, -2));
        assert_eq!(whole(Map::IDENTITY.flip(8).shift(2, -1).shift(-3, 2)), moved(true, -1, 1));
        let nothing = Affine { angle: 0.0, translate: [3.0, -2.0], scale: 1.0, shear: 0.0 };
        assert_eq!(whole(Map::IDENTITY.flip(8).affine(nothing, size).rotate(0.0, size)), moved(true, 2, -3));
        assert_eq!(whole(Map::IDENTITY.flip(8).resized_crop(&[0..6, 0..8], size)), moved(true, 0, 0));
        assert_eq!(whole(Map::IDENTITY.resized_crop(&[0..6, 1..8], size)), None);
        assert_eq!(whole(Map::IDENTITY.rotate(1e-3, size)), None);
        assert_eq!(whole(Map::IDENTITY.affine(Affine { translate: [0.5, 0.0], ..nothing }, size)), None);
    }

    #[test]
    fn the_bounds_of_a_crop_are_those_of_the_image_it_was_cut_from() {
        let size = [6, 8];
        let crop = |map: Map| map.resized_crop(&[1..4, 2..5], size).bounds;
        assert_eq!(crop(Map::IDENTITY), Some([[2.0, 4.0], [1.0, 3.0]]));
        assert_eq!(crop(Map::IDENTITY.flip(8)), Some([[3.0, 5.0], [1.0, 3.0]]));
        assert_eq!(crop(Map::IDENTITY.shift(1, -1)), Some([[1.0, 3.0], [2.0, 4.0]]));
    }
}
