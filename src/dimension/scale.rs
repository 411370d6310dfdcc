//! The scale at which a dimension is read, and the rule that chooses it.
//!
//! A dimension is a statement about a scale. With near-duplicates the nearest neighbours tell how texts repeat each other; far
//! away, curvature and density tell how the points end. In between, where there is such a range, the dimension does not
//! depend on the scale: that plateau is what is meant.

use std::fmt;
use std::str::FromStr;

use super::ScaleEstimate;

/// A change by less than this from one scale to the next is none.
const LEVEL: f64 = 0.1;

/// Which neighbours' distances are compared: the `n`-th and the `2n`-th nearest. `1:2` is TwoNN, everything else GRIDE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scale(usize);

impl Scale {
    /// The nearest and the second nearest neighbour: TwoNN.
    pub const NEAREST: Scale = Scale(1);
    /// All that can be chosen; a scan shows 32:64 too.
    pub const ALL: [Scale; 5] = [Scale(1), Scale(2), Scale(4), Scale(8), Scale(16)];

    /// The nearer neighbour, from 1.
    pub fn near(self) -> usize {
        self.0
    }

    /// The farther one.
    pub fn far(self) -> usize {
        2 * self.0
    }

    /// Its place in [`Scale::ALL`] and in a scan.
    pub fn place(self) -> usize {
        self.0.ilog2() as usize
    }
}

impl fmt::Display for Scale {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.near(), self.far())
    }
}

impl FromStr for Scale {
    type Err = String;

    /// `4` or `4:8`.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scale| scale.near().to_string() == text || scale.to_string() == text);
        found.ok_or_else(|| "take 1, 2, 4, 8 or 16, the nearer of the two neighbours that are compared".to_owned())
    }
}

/// How a scale was chosen.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plateau {
    /// The scale.
    pub scale: Scale,
    /// Whether the dimension is level there; otherwise it is the scale with the least change.
    pub level: bool,
    /// The change of the dimension from there to the next scale, relative; the median over the layers.
    pub change: f64,
}

/// The scale at which the layers of a model are read: the smallest from which on to the next (`n` to `2n`) at least half of
/// the layers change by less than a tenth, or by less than twice the standard error of the change. Where there is none, the
/// scale with the smallest median change. One scale serves all layers, so that differences compare like with like.
///
/// `scans` are those of [`gride_scan`](super::gride_scan), with the estimate of TwoNN that is used at `1:2`. `None` where no
/// two scales can be compared.
pub fn plateau(scans: &[&[ScaleEstimate]]) -> Option<Plateau> {
    let mut least: Option<Plateau> = None;
    for scale in Scale::ALL {
        let mut changes: Vec<f64> = Vec::new();
        let mut level = 0;
        for pair in scans.iter().filter_map(|scan| scan.get(scale.place()..scale.place() + 2)) {
            let change = (pair[1].dimension / pair[0].dimension).ln().abs();
            if !change.is_finite() {
                continue;
            }
            let error = |at: &ScaleEstimate| at.standard_error / at.dimension;
            let noise = 2.0 * error(&pair[0]).hypot(error(&pair[1]));
            level += usize::from(change <= LEVEL.ln_1p().max(noise));
            changes.push(change);
        }
        if changes.is_empty() {
            continue;
        }
        changes.sort_unstable_by(f64::total_cmp);
        let change = changes[changes.len() / 2].exp_m1();
        let found = Plateau { scale, level: 2 * level >= changes.len(), change };
        if found.level {
            return Some(found);
        }
        if least.is_none_or(|least| change < least.change) {
            least = Some(found);
        }
    }
    least
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scan(dimensions: &[f64], error: f64) -> Vec<ScaleEstimate> {
        let estimate = |(place, &dimension): (usize, &f64)| ScaleEstimate {
            neighbours: (1 << place, 2 << place),
            dimension,
            standard_error: error * dimension,
            distance: 1.0,
            left_out: 0,
        };
        dimensions.iter().enumerate().map(estimate).collect()
    }

    fn found(scans: &[Vec<ScaleEstimate>]) -> Option<(usize, bool)> {
        let scans: Vec<&[ScaleEstimate]> = scans.iter().map(Vec::as_slice).collect();
        plateau(&scans).map(|plateau| (plateau.scale.near(), plateau.level))
    }

    #[test]
    fn the_first_level_scale_is_chosen() {
        // Hidden states of MiniLM over MRPC: pairs of texts that say the same hide the dimension from the nearest neighbours.
        let mrpc = [8.1, 17.4, 27.5, 27.9, 27.8, 25.3];
        assert_eq!(found(&[scan(&mrpc, 0.01)]), Some((4, true)));
        assert_eq!(found(&[scan(&[9.8, 9.6, 9.4, 9.1, 8.6, 7.9], 0.01)]), Some((1, true)));
    }

    #[test]
    fn half_of_the_layers_decide() {
        let (late, soon) = (scan(&[2.0, 4.0, 8.0, 8.1, 8.1, 8.1], 0.01), scan(&[8.0; 6], 0.01));
        assert_eq!(found(&[late.clone(), late.clone(), soon.clone()]), Some((4, true)));
        assert_eq!(found(&[late, soon.clone(), soon]), Some((1, true)));
    }

    #[test]
    fn a_change_within_its_noise_is_none() {
        assert_eq!(found(&[scan(&[8.0, 9.2, 12.0, 12.0], 0.08)]), Some((1, true)));
        assert_eq!(found(&[scan(&[8.0, 9.2, 12.0, 12.0], 0.01)]), Some((4, true)));
    }

    #[test]
    fn without_a_plateau_the_least_change_is_taken() {
        assert_eq!(found(&[scan(&[1.75, 4.1, 6.7, 11.3, 17.7, 21.4], 0.01)]), Some((16, false)));
        assert_eq!(found(&[scan(&[5.0], 0.01)]), None);
        assert_eq!(found(&[]), None);
        assert_eq!(found(&[scan(&[f64::INFINITY, 4.0, 4.1], 0.01)]), Some((2, true)));
    }

    #[test]
    fn scales_are_named_by_their_neighbours() {
        assert_eq!(Scale::ALL.map(|scale| scale.to_string()), ["1:2", "2:4", "4:8", "8:16", "16:32"]);
        assert_eq!("8".parse(), Ok(Scale(8)));
        assert_eq!("8:16".parse(), Ok(Scale(8)));
        assert!("3".parse::<Scale>().is_err());
    }
}
