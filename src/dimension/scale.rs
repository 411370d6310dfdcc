//! The scale at which a dimension is read, and the rule that chooses it.
//!
//! A dimension is a statement about a scale. With near-duplicates, the nearest neighbours show how texts repeat each other;
//! far away, curvature and density show where the points end. In between, where there is such a range, the dimension does
//! not depend on the scale: that plateau is the dimension sought.

use std::fmt;
use std::str::FromStr;

use super::ScaleEstimate;

/// A relative change from one scale to the next below this counts as none.
const LEVEL: f64 = 0.1;

/// A dimension that grows by this factor towards a farther scale is that of clusters of near-duplicates.
const RISE: f64 = 1.5;

/// Two neighbours whose distances are compared: the `n`-th and the `2n`-th nearest. `1:2` is TwoNN, all others are GRIDE.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Scale(usize);

impl Scale {
    /// The nearest and the second nearest neighbour: TwoNN.
    pub const NEAREST: Scale = Scale(1);
    /// All scales that can be chosen; a scan shows 32:64 too.
    pub const ALL: [Scale; 5] = [Scale(1), Scale(2), Scale(4), Scale(8), Scale(16)];

    /// The nearer neighbour, from 1.
    pub fn near(self) -> usize {
        self.0
    }

    /// The farther neighbour.
    pub fn far(self) -> usize {
        2 * self.0
    }

    /// Index in [`Scale::ALL`] and in a scan.
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

    /// Accepts `4` or `4:8`.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|scale| scale.near().to_string() == text || scale.to_string() == text);
        found.ok_or_else(|| "take 1, 2, 4, 8 or 16, the nearer of the two neighbours that are compared".to_owned())
    }
}

/// The chosen scale, and how level the dimension is there.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Plateau {
    /// The scale chosen.
    pub scale: Scale,
    /// Whether the dimension is level there; otherwise this is the scale with the least change.
    pub level: bool,
    /// Relative change of the dimension from there to the next scale; the median over the layers.
    pub change: f64,
}

/// The scale at which the layers of a model are read: the smallest where at least half of the layers are level. A layer is
/// level where its dimension changes to the next scale (from `n` to `2n`) by less than a tenth, or by less than twice the
/// standard error of the change, and where no farther scale gives more than half as much again: near-duplicates have a
/// plateau of their own, which ends where their clusters do. (A decrease farther away is the rule: boundaries cause that.)
/// Without such a scale, the one with the smallest median change is chosen among those after which at least half of the
/// layers do not rise. One scale serves all layers, so that differences compare like with like.
///
/// `scans` are those of [`gride_scan`](super::gride_scan), with the TwoNN estimate at `1:2`. `None` where no two scales can
/// be compared.
pub fn plateau(scans: &[&[ScaleEstimate]]) -> Option<Plateau> {
    let mut least: Option<(bool, Plateau)> = None;
    for scale in Scale::ALL {
        let mut changes: Vec<f64> = Vec::new();
        let (mut level, mut rising) = (0, 0);
        for later in scans.iter().filter_map(|scan| scan.get(scale.place()..)).filter(|later| later.len() > 1) {
            let change = (later[1].dimension / later[0].dimension).ln().abs();
            if !change.is_finite() {
                continue;
            }
            let error = |at: &ScaleEstimate| at.standard_error / at.dimension;
            let noise = 2.0 * error(&later[0]).hypot(error(&later[1]));
            let rises = later.iter().any(|at| at.dimension > RISE * later[0].dimension);
            level += usize::from(change <= LEVEL.ln_1p().max(noise) && !rises);
            rising += usize::from(rises);
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
        let rises = 2 * rising > changes.len();
        let better = |(least_rises, least): (bool, Plateau)| match (rises, least_rises) {
            (false, true) => true,
            (true, false) => false,
            (false, false) => change < least.change,
            // Among scales that are all followed by a rise, the last one.
            (true, true) => true,
        };
        if least.is_none_or(better) {
            least = Some((rises, found));
        }
    }
    least.map(|(_, found)| found)
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
        // Hidden states of MiniLM over MRPC: paraphrase pairs hide the dimension from the nearest neighbours.
        let mrpc = [8.1, 17.4, 27.5, 27.9, 27.8, 25.3];
        assert_eq!(found(&[scan(&mrpc, 0.01)]), Some((4, true)));
        assert_eq!(found(&[scan(&[9.8, 9.6, 9.4, 9.1, 8.6, 7.9], 0.01)]), Some((1, true)));
    }

    #[test]
    fn the_level_of_near_duplicates_is_none() {
        // Hidden states over all phrases of SST-2, which are parts of each other.
        assert_eq!(found(&[scan(&[2.08, 2.3, 4.4, 9.9, 19.0, 22.4], 0.01)]), Some((16, false)));
        assert_eq!(found(&[scan(&[2.0, 2.05, 8.0, 19.0, 19.5, 19.0], 0.01)]), Some((8, true)));
        // Farther away it may fall, or rise a little with curvature.
        assert_eq!(found(&[scan(&[15.0, 14.2, 13.0, 11.5, 10.0, 8.0], 0.01)]), Some((1, true)));
        assert_eq!(found(&[scan(&[2.0, 2.0, 2.05, 2.1, 2.3, 2.6], 0.01)]), Some((1, true)));
        // Where it rises everywhere, the farthest scale is chosen.
        assert_eq!(found(&[scan(&[1.0, 2.0, 4.0, 8.0, 16.0, 32.0], 0.01)]), Some((16, false)));
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
