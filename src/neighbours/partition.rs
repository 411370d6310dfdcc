//! An order of the points that keeps neighbours close together: halves along the coordinate that varies most, down to blocks.

use rayon::prelude::*;

/// Rows sampled to find the coordinate that varies most.
const SAMPLE: usize = 512;

/// Row indices `0..rows`, ordered so that every `block` consecutive ones are near each other. `coordinates` is
/// `[rows, columns]`, row-major.
pub(super) fn near_rows_together(coordinates: &[f32], columns: usize, block: usize) -> Vec<u32> {
    let mut order: Vec<u32> = (0..(coordinates.len() / columns) as u32).collect();
    halve(&mut order, coordinates, columns, block);
    order
}

fn halve(rows: &mut [u32], coordinates: &[f32], columns: usize, block: usize) {
    if rows.len() <= block {
        rows.sort_unstable();
        return;
    }
    let column = widest(rows, coordinates, columns);
    // Whole blocks on the left: only the very last one is not full.
    let left = rows.len().div_ceil(block) / 2 * block;
    let value = |row: &u32| coordinates[*row as usize * columns + column];
    rows.select_nth_unstable_by(left, |a, b| value(a).total_cmp(&value(b)).then(a.cmp(b)));
    let (left, right) = rows.split_at_mut(left);
    rayon::join(|| halve(left, coordinates, columns, block), || halve(right, coordinates, columns, block));
}

fn widest(rows: &[u32], coordinates: &[f32], columns: usize) -> usize {
    let step = rows.len().div_ceil(SAMPLE);
    let mut sums = vec![(0.0f64, 0.0f64); columns];
    let mut count = 0.0;
    for &row in rows.iter().step_by(step) {
        count += 1.0;
        for (sums, &value) in sums.iter_mut().zip(&coordinates[row as usize * columns..]) {
            sums.0 += f64::from(value);
            sums.1 += f64::from(value) * f64::from(value);
        }
    }
    let variance = |(sum, square): (f64, f64)| square - sum * sum / count;
    (0..columns).max_by(|&a, &b| variance(sums[a]).total_cmp(&variance(sums[b])).then(b.cmp(&a))).unwrap_or(0)
}

/// Smallest and largest coordinate of every block.
pub(super) struct Boxes {
    columns: usize,
    /// `[blocks, columns]`: the smallest coordinates; `high` holds the largest.
    low: Vec<f32>,
    high: Vec<f32>,
}

impl Boxes {
    pub fn of(order: &[u32], coordinates: &[f32], columns: usize, block: usize) -> Self {
        let bounds: Vec<(Vec<f32>, Vec<f32>)> = order
            .par_chunks(block)
            .map(|rows| {
                let (mut low, mut high) = (vec![f32::INFINITY; columns], vec![f32::NEG_INFINITY; columns]);
                for &row in rows {
                    let values = &coordinates[row as usize * columns..(row as usize + 1) * columns];
                    low.iter_mut().zip(values).for_each(|(low, value)| *low = low.min(*value));
                    high.iter_mut().zip(values).for_each(|(high, value)| *high = high.max(*value));
                }
                (low, high)
            })
            .collect();
        let (low, high): (Vec<_>, Vec<_>) = bounds.into_iter().unzip();
        Self { columns, low: low.concat(), high: high.concat() }
    }

    /// Gap between two boxes: no distance between a point of one and a point of the other is smaller, up to the errors of
    /// their coordinates.
    pub fn gap(&self, a: usize, b: usize) -> f64 {
        let range = |block: usize| block * self.columns..(block + 1) * self.columns;
        let sides = |block: usize| self.low[range(block)].iter().zip(&self.high[range(block)]);
        let gaps = sides(a).zip(sides(b)).map(|((low_a, high_a), (low_b, high_b))| {
            let gap = (f64::from(*low_a) - f64::from(*high_b)).max(f64::from(*low_b) - f64::from(*high_a)).max(0.0);
            gap * gap
        });
        gaps.sum::<f64>().sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_full_and_apart() {
        // Two clusters far apart, in alternating rows.
        let coordinates: Vec<f32> =
            (0..100).flat_map(|row| [if row % 2 == 0 { 0.0 } else { 100.0 }, (row % 7) as f32]).collect();
        let order = near_rows_together(&coordinates, 2, 25);
        let mut sorted = order.clone();
        sorted.sort_unstable();
        assert_eq!(sorted, (0..100).collect::<Vec<u32>>());
        assert!(order[..50].iter().all(|row| row % 2 == 0));
        let boxes = Boxes::of(&order, &coordinates, 2, 25);
        assert_eq!(boxes.gap(0, 0), 0.0);
        assert!(boxes.gap(0, 2) >= 100.0);
        // One row more than fits: the last block is short, the others are full.
        assert_eq!(near_rows_together(&coordinates, 2, 99).len(), 100);
    }
}
