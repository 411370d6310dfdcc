//! The most promising neighbours of each row of a block, by a lower bound of their distance.

/// One list per row of a block: the `capacity` smallest scores seen so far, ascending.
///
/// A score is `s = h_j − ĝ_ij`, where `2 (s + h_i)` never exceeds the squared distance of the rows i and j
/// (see [`super::exact`]). Whatever was turned away has a score of at least the threshold of its row.
pub(super) struct Candidates {
    capacity: usize,
    /// `[rows]`: the largest kept score, or infinity while the list is not full.
    thresholds: Vec<f32>,
    /// `[rows, capacity]`
    scores: Vec<f32>,
    /// `[rows, capacity]`
    indices: Vec<u32>,
    /// `[rows]`
    lengths: Vec<u32>,
}

impl Candidates {
    /// Lists for `rows` rows, of which only the first `real` ones ever take a candidate.
    pub fn new(rows: usize, real: usize, capacity: usize) -> Self {
        let mut thresholds = vec![f32::INFINITY; rows];
        thresholds[real..].fill(f32::NEG_INFINITY);
        Self {
            capacity,
            thresholds,
            scores: vec![0.0; rows * capacity],
            indices: vec![0; rows * capacity],
            lengths: vec![0; rows],
        }
    }

    pub fn capacity(&self) -> usize {
        self.capacity
    }

    /// A candidate enters the list of a row if its score is below this.
    pub fn thresholds(&self) -> &[f32] {
        &self.thresholds
    }

    /// Keeps a candidate if its score is below the threshold of the row.
    pub fn offer(&mut self, row: usize, score: f32, index: u32) {
        if score >= self.thresholds[row] {
            return;
        }
        let start = row * self.capacity;
        let scores = &mut self.scores[start..start + self.capacity];
        let indices = &mut self.indices[start..start + self.capacity];
        let length = self.lengths[row] as usize;
        let mut place = length.min(self.capacity - 1);
        while place > 0 && scores[place - 1] > score {
            scores[place] = scores[place - 1];
            indices[place] = indices[place - 1];
            place -= 1;
        }
        scores[place] = score;
        indices[place] = index;
        if length < self.capacity {
            self.lengths[row] += 1;
        }
        if self.lengths[row] as usize == self.capacity {
            self.thresholds[row] = scores[self.capacity - 1];
        }
    }

    /// (score, row number) of the candidates of a row, ascending.
    pub fn row(&self, row: usize) -> impl Iterator<Item = (f32, u32)> + '_ {
        let start = row * self.capacity;
        let range = start..start + self.lengths[row] as usize;
        self.scores[range.clone()].iter().copied().zip(self.indices[range].iter().copied())
    }
}
