//! Bar charts made of characters, for the terminal.

/// Block characters in eighths of the line height.
const HEIGHTS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];

/// One character per value, from 0 to `highest`; a value that is not finite leaves a gap.
pub fn spark(values: &[f64], highest: f64) -> String {
    let letter = |value: &f64| match value.is_finite() && highest > 0.0 {
        true => HEIGHTS[((value / highest * 8.0).ceil() as usize).clamp(1, 8) - 1],
        false => ' ',
    };
    values.iter().map(letter).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_spark_has_a_letter_per_value() {
        assert_eq!(spark(&[0.0, 1.0, 4.0, f64::NAN, 8.0, 9.0], 8.0), "▁▁▄ ██");
        assert_eq!(spark(&[1.0], 0.0), " ");
    }
}
