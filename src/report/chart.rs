//! Shared parts of the figures: the frame, its axes and their ticks.

use serde::Serialize;

/// The outer size of a figure and the margins of its plot, in SVG units (pixels at natural size).
///
/// Every figure is drawn twice, wide and narrow, so that text keeps its size on a phone.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Frame {
    /// `wide` or `narrow`; also part of the ids in the page.
    pub(crate) name: &'static str,
    pub(crate) width: f64,
    pub(crate) height: f64,
    pub(crate) left: f64,
    pub(crate) right: f64,
    pub(crate) top: f64,
    pub(crate) bottom: f64,
}

impl Frame {
    /// A frame for tablets, desktops and paper.
    pub(crate) fn wide(height: f64) -> Self {
        Self { name: "wide", width: 920.0, height, left: 44.0, right: 12.0, top: 36.0, bottom: 46.0 }
    }

    /// A frame for phones.
    pub(crate) fn narrow(height: f64) -> Self {
        Self { name: "narrow", width: 348.0, height, left: 30.0, right: 6.0, top: 36.0, bottom: 46.0 }
    }

    /// Left and right edge of the plot.
    pub(crate) fn across(&self) -> (f64, f64) {
        (self.left, self.width - self.right)
    }

    /// Bottom and top edge of the plot.
    pub(crate) fn upwards(&self) -> (f64, f64) {
        (self.height - self.bottom, self.top)
    }
}

/// Maps values to positions, linearly.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Scale {
    pub(crate) from: (f64, f64),
    pub(crate) to: (f64, f64),
}

impl Scale {
    /// The position of a value, rounded to a tenth of a pixel.
    pub(crate) fn at(&self, value: f64) -> f64 {
        let share = (value - self.from.0) / (self.from.1 - self.from.0);
        tenth(self.to.0 + share * (self.to.1 - self.to.0))
    }
}

/// Rounds a coordinate to a tenth of a pixel: short coordinates keep files small.
pub(crate) fn tenth(value: f64) -> f64 {
    (value * 10.0).round() / 10.0
}

/// A tick on an axis.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Tick {
    pub(crate) at: f64,
    pub(crate) label: String,
}

/// Round values (1, 2 or 5 times a power of ten apart) around `low..high`, about `wanted` of them; the first is not
/// above `low`, the last not below `high`.
pub(crate) fn round_values(low: f64, high: f64, wanted: usize) -> Vec<f64> {
    let span = (high - low).max(1e-9);
    let raw = span / wanted.max(1) as f64;
    let power = 10f64.powf(raw.log10().floor());
    let step = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * power).into_iter().find(|step| *step >= raw * 0.999);
    let step = step.unwrap_or(10.0 * power);
    let (first, last) = ((low / step + 1e-9).floor() as i64, (high / step - 1e-9).ceil() as i64);
    (first..=last.max(first + 1)).map(|index| index as f64 * step).collect()
}

/// A value of [`round_values`] with the decimals that its step needs.
pub(crate) fn tick_label(value: f64, step: f64) -> String {
    let decimals = (-step.log10()).ceil().max(0.0) as usize;
    format!("{value:.decimals$}").replace('-', "−")
}

/// The interval between labelled layers when each label needs `space` pixels.
pub(crate) fn label_every(count: usize, width: f64, space: f64) -> usize {
    let fit = (width / space).floor().max(1.0);
    let least = (count as f64 / fit).ceil() as usize;
    [1, 2, 4, 5, 6, 8, 10, 12, 16, 20, 24, 32].into_iter().find(|every| *every >= least).unwrap_or(least)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_enclose_the_values() {
        assert_eq!(round_values(0.0, 3.4, 4), [0.0, 1.0, 2.0, 3.0, 4.0]);
        assert_eq!(round_values(0.0, 10.0, 5), [0.0, 2.0, 4.0, 6.0, 8.0, 10.0]);
        assert_eq!(round_values(7.7, 9.2, 4), [7.5, 8.0, 8.5, 9.0, 9.5]);
        assert_eq!(round_values(5.0, 5.0, 4).len(), 2);
    }

    #[test]
    fn labels_show_the_decimals_of_the_step() {
        assert_eq!(tick_label(7.5, 0.5), "7.5");
        assert_eq!(tick_label(8.0, 0.5), "8.0");
        assert_eq!(tick_label(20.0, 10.0), "20");
    }

    #[test]
    fn labels_do_not_touch() {
        assert_eq!(label_every(7, 300.0, 24.0), 1);
        assert_eq!(label_every(49, 300.0, 24.0), 5);
    }
}
