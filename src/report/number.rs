//! Numbers formatted for people.

/// Formats `8551` as `8,551`.
pub(crate) fn thousands(value: u64) -> String {
    let digits = value.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A dimension with an appropriate number of decimals: two below ten, one above.
pub(crate) fn dimension(value: f64) -> String {
    minus(if value.abs() < 9.995 { format!("{value:.2}") } else { format!("{value:.1}") })
}

/// A difference of dimensions, with its sign.
pub(crate) fn signed(value: f64) -> String {
    let text = format!("{value:+.2}");
    // -0.00 would be misleading.
    minus(if text == "-0.00" { "+0.00".to_owned() } else { text })
}

/// A share as whole per cent; a share that is not exactly 1 or 0 never reads as 100 % or 0 %.
pub(crate) fn percent(share: f64) -> String {
    match share {
        share if share >= 1.0 => "100 %".to_owned(),
        share if share <= 0.0 => "0 %".to_owned(),
        share if share > 0.99 => "> 99 %".to_owned(),
        share if share < 0.01 => "< 1 %".to_owned(),
        share => format!("{:.0} %", share * 100.0),
    }
}

/// One count as a percentage of another; above one as a multiple.
pub(crate) fn percent_of(part: u64, whole: u64) -> String {
    let share = part as f64 / whole.max(1) as f64;
    if share > 2.0 { format!("{share:.1} times") } else { format!("{:.0} %", share * 100.0) }
}

/// Formats as `1,234` or `1.2 M`: short where the digits do not matter.
pub(crate) fn short(value: u64) -> String {
    match value {
        0..100_000 => thousands(value),
        100_000..10_000_000 => format!("{:.2} M", value as f64 / 1e6),
        _ => format!("{:.1} M", value as f64 / 1e6),
    }
}

/// Replaces the hyphen by a minus sign, which is as wide as a plus sign.
fn minus(text: String) -> String {
    text.replace('-', "−")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_grouped() {
        assert_eq!([0, 999, 1000, 1234567].map(thousands), ["0", "999", "1,000", "1,234,567"]);
    }

    #[test]
    fn decimals_fit_the_size() {
        assert_eq!([2.414, 9.994, 9.996, 14.23].map(dimension), ["2.41", "9.99", "10.0", "14.2"]);
        assert_eq!([0.3, -0.12, -0.001].map(signed), ["+0.30", "−0.12", "+0.00"]);
    }

    #[test]
    fn almost_certain_is_not_certain() {
        assert_eq!([1.0, 0.999, 0.5, 0.004, 0.0].map(percent), ["100 %", "> 99 %", "50 %", "< 1 %", "0 %"]);
    }
}
