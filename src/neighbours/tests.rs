use itertools::Itertools;
use ndarray::{Array2, ArrayView2, array};
use proptest::prelude::*;

use super::search_plan::{Coordinates, SearchPlan};
use super::*;
use crate::progress::{CancelFlag, Event, Silent};

/// Reference in plain float64: every pair, one after the other.
fn brute_force<T: Scalar>(points: ArrayView2<'_, T>, k: usize) -> Vec<Vec<(f64, u32)>> {
    let distance = |a: usize, b: usize| {
        let pairs = points.row(a).to_vec().into_iter().zip_eq(points.row(b).to_vec());
        let differences: Vec<f64> = pairs.map(|(a, b)| a.to_f64() - b.to_f64()).collect();
        let largest = differences.iter().fold(0.0, |largest: f64, d| largest.max(d.abs()));
        if largest == 0.0 {
            return 0.0;
        }
        largest * differences.iter().map(|d| (d / largest) * (d / largest)).sum::<f64>().sqrt()
    };
    let row = |a: usize| {
        let mut all: Vec<(f64, u32)> =
            (0..points.nrows()).filter(|&b| b != a).map(|b| (distance(a, b), b as u32)).collect();
        all.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        all.truncate(k);
        all
    };
    (0..points.nrows()).map(row).collect()
}

/// Distances agree to the last few bits; where a neighbour differs it must be a tie to the last few bits.
fn agrees<T: Scalar>(points: ArrayView2<'_, T>, k: usize, found: &Neighbours) {
    for (row, expected) in brute_force(points, k).into_iter().enumerate() {
        for (place, (distance, neighbour)) in expected.into_iter().enumerate() {
            let (ours, index) = (found.distances[[row, place]], found.indices[[row, place]]);
            assert!((ours - distance).abs() <= 1e-13 * distance, "row {row}: {ours} is not {distance}");
            if index != neighbour {
                let other = brute_force_pair(points, row, index as usize);
                assert!((other - distance).abs() <= 1e-13 * distance, "row {row}: {index} is not {neighbour}");
            }
        }
    }
}

fn brute_force_pair<T: Scalar>(points: ArrayView2<'_, T>, a: usize, b: usize) -> f64 {
    let two = ndarray::stack![ndarray::Axis(0), points.row(a), points.row(b)];
    brute_force(two.view(), 1)[0][0].0
}

fn check_all_engines<T: Scalar>(points: &Array2<T>, k: usize) {
    let exact = nearest(points.view(), k, Engine::Exact, &Silent).unwrap();
    agrees(points.view(), k, &exact);
    for engine in [Engine::BallTree, Engine::KdTree] {
        let tree = nearest(points.view(), k, engine, &Silent).unwrap();
        assert_eq!((&tree.distances, &tree.indices), (&exact.distances, &exact.indices), "{engine}");
    }
    for plan in all_plans(points.ncols()) {
        let other = search_by(plan, points, k);
        assert_eq!((&other.distances, &other.indices), (&exact.distances, &exact.indices), "{plan:?}");
    }
}

/// Every kernel that this processor has, with and without axes.
fn all_plans(columns: usize) -> Vec<SearchPlan> {
    let mut all = Vec::new();
    for codes in simd::isa::Isa::all() {
        for products in [simd::projection_gemm::Kernel::detect(), simd::projection_gemm::Kernel::Portable] {
            all.push(SearchPlan { codes, products, coordinates: Coordinates::Whole });
            if columns >= simd::projection_gemm::AXES {
                all.push(SearchPlan { codes, products, coordinates: Coordinates::Along(simd::projection_gemm::AXES) });
            }
        }
    }
    all
}

fn search_by<T: Scalar>(plan: SearchPlan, points: &Array2<T>, k: usize) -> Neighbours {
    let rows = rows::RowView::all(points.as_slice().unwrap(), points.ncols());
    let centring = normalization::Centring::of(&rows).unwrap();
    let scale = centring.scale;
    let found = search::radius::search(plan, &exact_distance::Points { rows, scale }, &centring, k, &Silent).unwrap();
    found.into_neighbours(points.nrows(), k, Engine::Exact, scale)
}

/// Point sets that are hard for single precision.
#[derive(Debug, Clone, Copy)]
enum Shape {
    Uniform,
    Grid,
    HugeOffset,
    NearDuplicates,
    Duplicates,
    DominantCoordinate,
    ConstantColumns,
    Subnormal,
    Huge,
    FarClusters,
}

const SHAPES: [Shape; 10] = [
    Shape::Uniform,
    Shape::Grid,
    Shape::HugeOffset,
    Shape::NearDuplicates,
    Shape::Duplicates,
    Shape::DominantCoordinate,
    Shape::ConstantColumns,
    Shape::Subnormal,
    Shape::Huge,
    Shape::FarClusters,
];

/// Points of a shape; `unit` draws from −1..1, and all values fit float32.
fn points(shape: Shape, rows: usize, columns: usize, mut unit: impl FnMut() -> f64) -> Array2<f64> {
    let mut points = Array2::from_shape_simple_fn((rows, columns), &mut unit);
    match shape {
        Shape::Uniform => {}
        Shape::Grid => points.mapv_inplace(|v| (2.0 * v).round()),
        Shape::HugeOffset => points.mapv_inplace(|v| v + 1e4),
        Shape::NearDuplicates => {
            for row in 1..rows {
                if row % 3 != 0 {
                    let earlier = points.row(row - row % 3).to_owned();
                    points.row_mut(row).zip_mut_with(&earlier, |v, e| *v = e + 1e-7 * *v);
                }
            }
        }
        Shape::Duplicates => {
            for row in 1..rows {
                if unit() > -0.5 {
                    let earlier = points.row(row / 2).to_owned();
                    points.row_mut(row).assign(&earlier);
                }
            }
        }
        Shape::DominantCoordinate => points.column_mut(columns / 2).mapv_inplace(|v| v * 1e6),
        Shape::ConstantColumns => points.column_mut(columns - 1).fill(123_456.7),
        Shape::Subnormal => points.mapv_inplace(|v| v * 1e-41),
        Shape::Huge => points.mapv_inplace(|v| v * 1e38),
        Shape::FarClusters => {
            for (row, mut values) in points.rows_mut().into_iter().enumerate() {
                let offset = if row % 2 == 0 { 1e3 } else { -1e3 };
                values.mapv_inplace(|v| offset + 1e-3 * v);
            }
        }
    }
    points
}

fn lcg(seed: u64) -> impl FnMut() -> f64 {
    let mut state = seed;
    move || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        2.0 * ((state >> 11) as f64 / (1u64 << 53) as f64) - 1.0
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(150))]

    #[test]
    fn neighbours_are_those_of_brute_force(
        shape in proptest::sample::select(&SHAPES[..]),
        rows in 3usize..100,
        columns in 1usize..40,
        wanted in 1usize..70,
        seed in any::<u64>(),
    ) {
        let points = points(shape, rows, columns, lcg(seed));
        let k = wanted.min(rows - 1);
        check_all_engines(&points, k);
        check_all_engines(&points.mapv(|v| v as f32), k);
    }
}

#[test]
fn several_blocks_agree_with_brute_force() {
    for (number, shape) in SHAPES.into_iter().enumerate() {
        let points = points(shape, 500 + 7 * number, 33, lcg(number as u64));
        check_all_engines(&points.mapv(|v| v as f32), 5);
    }
}

#[test]
fn wide_points_agree_with_brute_force() {
    let points = points(Shape::HugeOffset, 260, 700, lcg(5)).mapv(|v| v as f32);
    check_all_engines(&points, 3);
}

#[test]
fn many_neighbours_agree_with_brute_force() {
    for (number, shape) in SHAPES.into_iter().enumerate() {
        let points = points(shape, 490, 70, lcg(40 + number as u64));
        if number % 3 == 0 {
            check_all_engines(&points, 20);
        } else {
            check_all_engines(&points.mapv(|v| v as f32), 64);
        }
    }
}

/// Distances lie between the bounds of the codes of all coordinates, and these bounds are tight.
#[test]
fn fine_codes_bound_distances_both_ways() {
    for (number, shape) in SHAPES.into_iter().enumerate() {
        let points = points(shape, 60, 5 + 30 * number, lcg(60 + number as u64));
        let rows = rows::RowView::all(points.as_slice().unwrap(), points.ncols());
        let centring = normalization::Centring::of(&rows).unwrap();
        let points = exact_distance::Points { rows, scale: centring.scale };
        let order: Vec<u32> = (0..60).rev().collect();
        let lengths: Vec<f64> =
            (0..60).map(|row| centring.row(points.row(row)).map(|value| value * value).sum::<f64>().sqrt()).collect();
        for isa in simd::isa::Isa::all() {
            let codes = int12_codes::Int12Codes::of(&projection::Projection::whole(&points, &centring), &order, isa);
            for (i, &a) in order.iter().enumerate() {
                for (j, &b) in order.iter().enumerate().skip(i + 1) {
                    let distance = points.squared_distance(a as usize, b as usize, f64::INFINITY).sqrt();
                    let (lower, upper) = codes.bounds(i, j);
                    assert!(f64::from(lower) <= distance && distance <= f64::from(upper), "{shape:?}");
                    assert!(
                        !codes.farther(i, j, distance)
                            && (lower == 0.0 || codes.farther(i, j, 0.99 * f64::from(lower)))
                    );
                    let length = lengths[a as usize] + lengths[b as usize];
                    assert!(f64::from(upper - lower) <= 4e-3 * length + 1e-30, "{shape:?}: {lower} {upper} {length}");
                }
            }
        }
    }
}

/// Points on the axes: all are equally far from each other, and only their indices decide which are the nearest.
#[test]
fn many_ties_go_to_the_smaller_rows() {
    let points = Array2::from_shape_fn((500, 500), |(row, column)| if row == column { 1.0f32 } else { 0.0 });
    let found = nearest(points.view(), 30, Engine::Exact, &Silent).unwrap();
    for (row, neighbours) in found.indices.rows().into_iter().enumerate() {
        let expected: Vec<u32> = (0..500).filter(|other| *other as usize != row).take(30).collect();
        assert_eq!(neighbours.to_vec(), expected);
    }
}

#[test]
fn float64_keeps_what_float32_cannot_hold() {
    let points = points(Shape::Uniform, 300, 6, lcg(8)).mapv(|v| 1e9 + 1e-4 * v);
    check_all_engines(&points, 4);
    let wide = points.mapv(|v| (v - 1e9) * 1e200 + if v > 1e9 { 1e190 } else { 0.0 });
    check_all_engines(&wide, 4);
}

#[test]
fn few_pairs_of_ordinary_points_are_measured() {
    let points = points(Shape::Uniform, 1000, 100, lcg(3)).mapv(|v| v as f32);
    let work = nearest(points.view(), 2, Engine::Exact, &Silent).unwrap().work;
    assert!(work.settled <= work.measured && work.measured < work.compared / 20, "{work:?}");
}

#[test]
fn ties_go_to_the_smaller_row() {
    let square = array![[1.0, 1.0], [0.0, 0.0], [1.0, 0.0], [0.0, 1.0]];
    for engine in [Engine::Exact, Engine::BallTree, Engine::KdTree] {
        let found = nearest(square.view(), 2, engine, &Silent).unwrap();
        assert_eq!(found.indices, array![[2, 3], [2, 3], [0, 1], [0, 1]]);
    }
}

#[test]
fn identical_rows_do_not_degenerate_the_tree() {
    let points = Array2::from_elem((20_000, 3), 1.5f32);
    for engine in [Engine::BallTree, Engine::KdTree] {
        let found = nearest(points.view(), 2, engine, &Silent).unwrap();
        assert_eq!(found.indices.row(19_999).to_vec(), [0, 1]);
        assert!(found.distances.iter().all(|&distance| distance == 0.0));
    }
}

#[test]
fn non_finite_values_are_named() {
    let mut points = Array2::<f32>::zeros((10, 3));
    points[[7, 1]] = f32::NAN;
    let error = nearest(points.view(), 2, Engine::Auto, &Silent).unwrap_err();
    assert!(error.to_string().starts_with("row 7, column 1 is NaN; drop such rows"), "{error}");
    points[[7, 1]] = f32::NEG_INFINITY;
    let error = nearest(points.view(), 2, Engine::BallTree, &Silent).unwrap_err();
    assert!(error.to_string().starts_with("row 7, column 1 is -inf"), "{error}");
}

#[test]
fn impossible_questions_are_errors() {
    let points = Array2::<f64>::zeros((3, 2));
    assert!(matches!(
        nearest(points.view(), 3, Engine::Auto, &Silent),
        Err(NeighbourError::TooFewPoints { points: 3, wanted: 3 })
    ));
    assert!(matches!(nearest(points.view(), 0, Engine::Auto, &Silent), Err(NeighbourError::Nothing { .. })));
    let empty = Array2::<f64>::zeros((3, 0));
    assert!(matches!(nearest(empty.view(), 1, Engine::Auto, &Silent), Err(NeighbourError::Nothing { .. })));
}

#[test]
fn a_cancelled_search_stops() {
    struct Stop(CancelFlag);
    impl Observer for Stop {
        fn observe(&self, _: crate::progress::Event<'_>) {}
        fn is_cancelled(&self) -> bool {
            self.0.is_raised()
        }
    }
    let stop = Stop(CancelFlag::default());
    stop.0.raise();
    let points = points(Shape::Uniform, 300, 4, lcg(1));
    for engine in [Engine::Exact, Engine::BallTree, Engine::KdTree] {
        assert!(matches!(nearest(points.view(), 2, engine, &stop), Err(NeighbourError::Cancelled(_))));
    }
}

#[test]
fn columns_in_any_order_of_memory() {
    let points = points(Shape::Uniform, 100, 7, lcg(2));
    let transposed = points.t().as_standard_layout().to_owned();
    let straight = nearest(points.view(), 3, Engine::Exact, &Silent).unwrap();
    assert_eq!(nearest(transposed.t(), 3, Engine::Exact, &Silent).unwrap(), straight);
}

#[test]
fn engines_have_names() {
    for engine in [Engine::Auto, Engine::BallTree, Engine::KdTree, Engine::Exact] {
        assert_eq!(engine.to_string().parse::<Engine>().unwrap(), engine);
    }
    let error = "r-tree".parse::<Engine>().unwrap_err();
    assert_eq!(error.to_string(), "unknown neighbour engine \"r-tree\"; use auto, ball-tree, kd-tree or exact");
}

#[test]
fn a_trial_says_what_it_found_and_is_left_out_where_no_tree_can_be_faster() {
    #[derive(Default)]
    struct Listener(std::sync::Mutex<Vec<String>>);
    impl Observer for Listener {
        fn observe(&self, event: Event<'_>) {
            if let Event::Notice(text) = event {
                self.0.lock().unwrap().push(text.to_owned());
            }
        }
        fn is_cancelled(&self) -> bool {
            false
        }
    }
    let said = |rows: usize, columns: usize| {
        let listener = Listener::default();
        let points = points(Shape::Uniform, rows, columns, lcg(4));
        let found = nearest(points.view(), 2, Engine::Auto, &listener).unwrap();
        (found.engine, listener.0.into_inner().unwrap())
    };
    let (engine, told) = said(20_000, 2);
    assert!(
        told.len() == 1 && told[0].starts_with(&format!("neighbours by {engine}, by a trial with 8192 of 20000")),
        "{told:?}"
    );
    assert_eq!(said(19_000, 2), (Engine::Exact, vec![]));
    assert_eq!(said(20_000, 7), (Engine::Exact, vec![]));
}

/// Prim's algorithm on distances in float64: the lengths of the edges, ascending.
fn prim<T: Scalar>(points: ArrayView2<'_, T>) -> Vec<f64> {
    let mut nearest = vec![f64::INFINITY; points.nrows()];
    let (mut lengths, mut last) = (Vec::new(), 0);
    nearest[0] = f64::NEG_INFINITY;
    for _ in 1..points.nrows() {
        for (other, nearest) in nearest.iter_mut().enumerate() {
            if *nearest > f64::NEG_INFINITY {
                *nearest = nearest.min(brute_force_pair(points, last, other));
            }
        }
        let outside = (0..points.nrows()).filter(|&row| nearest[row] > f64::NEG_INFINITY);
        last = outside.min_by(|&a, &b| nearest[a].total_cmp(&nearest[b])).unwrap();
        lengths.push(nearest[last]);
        nearest[last] = f64::NEG_INFINITY;
    }
    lengths.sort_by(f64::total_cmp);
    lengths
}

fn check_tree<T: Scalar>(points: &Array2<T>) {
    let tree = spanning_tree(points.view(), &Silent).unwrap();
    let expected = prim(points.view());
    assert_eq!(tree.len(), expected.len());
    for (edge, expected) in tree.iter().zip_eq(expected) {
        assert!((edge.length - expected).abs() <= 1e-12 * expected, "{} is not {expected}", edge.length);
        let (a, b) = (edge.ends.0 as usize, edge.ends.1 as usize);
        assert!(a < b && (edge.length - brute_force_pair(points.view(), a, b)).abs() <= 1e-12 * edge.length);
    }
    // The tree connects all rows: every edge joins two separate components.
    let mut part: Vec<usize> = (0..points.nrows()).collect();
    for edge in tree {
        let (from, to) = (part[edge.ends.1 as usize], part[edge.ends.0 as usize]);
        assert_ne!(from, to);
        part.iter_mut().filter(|part| **part == from).for_each(|part| *part = to);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn the_tree_is_that_of_prim(
        shape in proptest::sample::select(&SHAPES[..]),
        rows in 2usize..70,
        columns in 1usize..20,
        seed in any::<u64>(),
    ) {
        let points = points(shape, rows, columns, lcg(seed));
        check_tree(&points);
        check_tree(&points.mapv(|v| v as f32));
    }
}

/// Clusters far apart and larger than the neighbour lists: passes have to find the edges between them.
#[test]
fn clusters_are_joined_by_their_shortest_edges() {
    let mut draw = lcg(4);
    let points = Array2::from_shape_fn((300, 5), |(row, column)| {
        let centre = if column == row % 5 { 50.0 * (row % 5) as f64 } else { 0.0 };
        centre + draw()
    });
    check_tree(&points);
    check_tree(&points.mapv(|v| v as f32));
}
