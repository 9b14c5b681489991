//! Numbers and lists as sentences have them.

/// A difference with its sign; what rounds to nothing has a plus.
pub(crate) fn signed(difference: f64, decimals: usize) -> String {
    let shown = format!("{difference:+.decimals$}");
    // A minus before nothing reads like a loss.
    let is_nothing = shown.chars().all(|c| matches!(c, '+' | '-' | '0' | '.'));
    if is_nothing { shown.replacen('-', "+", 1) } else { shown }
}

/// How far one figure lies from another: `0.0123 above`, `0.0123 below`.
pub(crate) fn beside(difference: f64, decimals: usize) -> String {
    let side = if difference < 0.0 { "below" } else { "above" };
    format!("{:.decimals$} {side}", difference.abs())
}

/// `a`, `a and b`, `a, b and c`.
pub(crate) fn joined(parts: &[String]) -> String {
    match parts {
        [] => String::new(),
        [one] => one.clone(),
        [before @ .., last] => format!("{} and {last}", before.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_have_signs_and_nothing_is_not_negative() {
        let shown = [0.01234, -0.01234, -0.00001, 0.0].map(|difference| signed(difference, 4));
        assert_eq!(shown, ["+0.0123", "-0.0123", "+0.0000", "+0.0000"]);
        assert_eq!([beside(-0.5, 1), beside(0.5, 2)], ["0.5 below", "0.50 above"]);
    }

    #[test]
    fn lists_end_with_and() {
        let parts = ["a", "b", "c"].map(str::to_owned);
        assert_eq!([&parts[..0], &parts[..1], &parts[..2], &parts[..]].map(joined), ["", "a", "a and b", "a, b and c"]);
    }
}
