use itertools::Itertools;
use ndarray::{Array1, Array2};

use super::*;
use crate::neighbours::{Engine, nearest};
use crate::progress::Silent;

/// The generator of the reference points: one step before each draw, row-major, 53 bits.
pub(crate) struct Lcg(pub u64);

impl Lcg {
    pub(crate) fn uniform(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1u64 << 53) as f64
    }

    pub(crate) fn cube(&mut self, points: usize, dimension: usize, columns: usize) -> Array2<f64> {
        let mut cube = Array2::zeros((points, columns));
        for mut row in cube.rows_mut() {
            row.iter_mut().take(dimension).for_each(|value| *value = self.uniform());
        }
        cube
    }
}

fn estimate(points: &Array2<f64>, method: Method, engine: Engine) -> Estimate {
    match two_nn(points.view(), method, engine, &Silent).unwrap() {
        LayerDimension::Estimate(estimate) => estimate,
        LayerDimension::Degenerate { reason, .. } => panic!("{reason}"),
    }
}

#[track_caller]
fn close(found: f64, expected: f64, relative: f64) {
    assert!((found - expected).abs() <= relative * expected.abs(), "{found} is not {expected}");
}

/// Reference values: exact float64 neighbours; `linear` agrees with scikit-dimension 0.5.0, `mle` with the first entry of
/// DADApy 0.3.4's GRIDE.
struct Reference {
    seed: u64,
    points: usize,
    dimension: usize,
    columns: usize,
    first: f64,
    linear: f64,
    mle: f64,
    censored: f64,
    scikit_dimension: f64,
    mean_distances: (f64, f64),
}

const REFERENCES: [Reference; 3] = [
    Reference {
        seed: 1002,
        points: 500,
        dimension: 2,
        columns: 5,
        first: 0.7687256812865089,
        linear: 1.8217234129947624,
        mle: 1.8823054104948704,
        censored: 1.8302814251152506,
        scikit_dimension: 1.8217234129947628,
        mean_distances: (0.021669862939505874, 0.033649281869471664),
    },
    Reference {
        seed: 1005,
        points: 1000,
        dimension: 5,
        columns: 30,
        first: 0.803727229269767,
        linear: 4.610424452186487,
        mle: 4.60215898349603,
        censored: 4.573793361454128,
        scikit_dimension: 4.610424452186489,
        mean_distances: (0.17901105728539954, 0.21823131801493514),
    },
    Reference {
        seed: 1010,
        points: 1000,
        dimension: 10,
        columns: 64,
        first: 0.528729809241864,
        linear: 8.295903797437072,
        mle: 8.292721824158189,
        censored: 8.308621584288842,
        scikit_dimension: 8.295903797437079,
        mean_distances: (0.5034260061454031, 0.5645726152708892),
    },
];

#[test]
fn reference_values_are_reproduced() {
    for reference in REFERENCES {
        let cube = Lcg(reference.seed).cube(reference.points, reference.dimension, reference.columns);
        assert_eq!(cube[[0, 0]], reference.first);
        for engine in [Engine::Exact, Engine::BallTree, Engine::KdTree] {
            let linear = estimate(&cube, Method::Linear { discard: 0.1 }, engine);
            close(linear.dimension, reference.linear, 1e-9);
            close(linear.dimension, reference.scikit_dimension, 1e-9);
            close(linear.mean_distances.0, reference.mean_distances.0, 1e-9);
            close(linear.mean_distances.1, reference.mean_distances.1, 1e-9);
            close(estimate(&cube, Method::MaximumLikelihood, engine).dimension, reference.mle, 1e-9);
            let censored = Method::CensoredMaximumLikelihood { discard: 0.1 };
            close(estimate(&cube, censored, engine).dimension, reference.censored, 1e-9);
            assert_eq!((linear.points, linear.counts.rows), (reference.points, reference.points));
        }
    }
}

const METHODS: [Method; 3] =
    [Method::Linear { discard: 0.1 }, Method::MaximumLikelihood, Method::CensoredMaximumLikelihood { discard: 0.1 }];

/// Independent ratios of a known dimension: the standard error is the spread, and the interval covers 95 %.
#[test]
fn analytic_errors_hold_for_independent_ratios() {
    let (dimension, points, repetitions) = (7.0, 400, 400);
    let mut generator = Lcg(11);
    for method in METHODS {
        let fits: Vec<Fit> = (0..repetitions)
            .map(|_| {
                let mut ratios: Vec<f64> =
                    (0..points).map(|_| (1.0 - generator.uniform()).powf(-1.0 / dimension)).collect();
                method.fit(&mut ratios).unwrap()
            })
            .collect();
        let values: Array1<f64> = fits.iter().map(|fit| fit.dimension).collect();
        let errors: Array1<f64> = fits.iter().map(|fit| fit.standard_error).collect();
        close(values.mean().unwrap(), dimension, 0.02);
        close(errors.mean().unwrap(), values.std(1.0), 0.12);
        let covered = fits.iter().filter(|fit| (fit.interval.0..fit.interval.1).contains(&dimension)).count();
        let coverage = covered as f64 / repetitions as f64;
        assert!((0.92..0.98).contains(&coverage), "{method}: {coverage}");
    }
}

#[test]
fn duplicates_near_duplicates_and_non_finite_rows_are_left_out_and_counted() {
    let clean = Lcg(5).cube(300, 3, 6).mapv(|v| (v + 1.0) as f32);
    let expected = two_nn(clean.view(), Method::default(), Engine::Exact, &Silent).unwrap().dimension().unwrap();
    let mut spoilt = clean.clone();
    for row in 0..20 {
        spoilt.push_row(clean.row(row)).unwrap();
        let near = clean.row(row + 50).mapv(|v| v * (1.0 + f32::EPSILON));
        spoilt.push_row(near.view()).unwrap();
    }
    spoilt.push_row(Array1::from_elem(6, f32::NAN).view()).unwrap();
    spoilt.push_row(Array1::from_elem(6, f32::INFINITY).view()).unwrap();
    for engine in [Engine::Exact, Engine::BallTree, Engine::KdTree] {
        let found = two_nn(spoilt.view(), Method::default(), engine, &Silent).unwrap();
        assert_eq!(found.counts(), Counts { rows: 342, non_finite: 2, duplicates: 20, near_duplicates: 20 });
        assert_eq!(found.dimension(), Some(expected));
    }
    let kept = TwoNn { noise: 0.0, ..TwoNn::default() }.estimate(spoilt.view(), &Silent).unwrap();
    assert_eq!((kept.counts().duplicates, kept.counts().near_duplicates), (20, 0));
    assert!(kept.dimension().unwrap() < 0.9 * expected);
}

#[test]
fn a_constant_layer_is_degenerate_in_the_last_bits_too() {
    let mut generator = Lcg(3);
    let vector: Vec<f32> = (0..64).map(|_| generator.uniform() as f32 - 0.5).collect();
    let constant = Array2::from_shape_fn((200, 64), |(_, column)| vector[column]);
    let noisy = constant.mapv(|v| v + (generator.uniform() as f32 - 0.5) * 2.0 * f32::EPSILON);
    for points in [constant, noisy] {
        let found = two_nn(points.view(), Method::default(), Engine::Auto, &Silent).unwrap();
        let LayerDimension::Degenerate { reason, counts } = found else { panic!("{found:?}") };
        assert!(reason.starts_with("all 200 rows are the same vector to float precision"), "{reason}");
        assert_eq!(counts.rows, 200);
    }
}

#[test]
fn a_small_spread_on_a_large_offset_is_not_degenerate() {
    let cube = Lcg(9).cube(300, 3, 5);
    let expected = estimate(&cube, Method::default(), Engine::Exact).dimension;
    close(estimate(&cube.mapv(|v| 1e4 + v), Method::default(), Engine::Exact).dimension, expected, 1e-6);
    let single = cube.mapv(|v| (1e2 + v) as f32);
    let found = two_nn(single.view(), Method::default(), Engine::Auto, &Silent).unwrap();
    close(found.dimension().unwrap(), expected, 0.02);
}

#[test]
fn a_grid_has_no_dimension() {
    let points = Array2::from_shape_fn((60, 60), |(row, column)| if row == column { 1.0 } else { 0.0 });
    let found = two_nn(points.view(), Method::default(), Engine::Auto, &Silent).unwrap();
    let LayerDimension::Degenerate { reason, .. } = found else { panic!("{found:?}") };
    assert!(reason.ends_with("the points lie on a grid"), "{reason}");
}

#[test]
fn too_few_distinct_rows_name_the_cure() {
    let mut points = Array2::from_shape_fn((90, 3), |(row, column)| ((row % 40) * (column + 1)) as f64);
    points[[89, 0]] = f64::NAN;
    let error = two_nn(points.view(), Method::default(), Engine::Auto, &Silent).unwrap_err();
    insta::assert_snapshot!(error, @"40 distinct rows are left of 90 (1 with NaN or infinity, 49 repeated), but an estimate needs 50; use more data, a larger `max_length` if texts were cut, or another pooling if the rows should not be equal");
    assert!(!error.to_string().contains('\n'));
}

#[test]
fn impossible_settings_are_errors() {
    let points = Lcg(1).cube(60, 2, 2);
    let method = Method::Linear { discard: 1.0 };
    assert!(matches!(
        two_nn(points.view(), method, Engine::Auto, &Silent),
        Err(DimensionError::Discard { found: 1.0 })
    ));
    assert_eq!("mle".parse::<Method>().unwrap(), Method::MaximumLikelihood);
    let error = "levina".parse::<Method>().unwrap_err().to_string();
    assert_eq!(error, "unknown method \"levina\"; use linear, mle or censored-mle");
}

type Scan = [f64; 6];

/// DADApy 0.3.4, `return_id_scaling_gride(range_max=64)`, whose bisection stops at 1e-7: seed, dimensions, errors, distances.
const GRIDE: [(u64, Scan, Scan, Scan); 3] = [
    (
        1002,
        [
            1.8823054298159263,
            1.8494132448485179,
            1.8669194141926997,
            1.945551075158728,
            1.8415191297695566,
            1.794912767943839,
        ],
        [
            0.08417925790970741,
            0.05961905136379783,
            0.04268084538458039,
            0.03141650236313693,
            0.021025186802419445,
            0.014484908109923632,
        ],
        [
            0.02765957240448898,
            0.04199651427016608,
            0.06224617787425077,
            0.09056269256657691,
            0.13182765861678142,
            0.19421525145684593,
        ],
    ),
    (
        1005,
        [
            4.602158984739538,
            4.616066352631228,
            4.483784220382833,
            4.3681598816691825,
            4.218242009952986,
            4.084858415238587,
        ],
        [
            0.14553304545985032,
            0.1052081532820209,
            0.07243658102177628,
            0.049876541541819086,
            0.03404794934718572,
            0.023306109345236078,
        ],
        [
            0.19862118765016737,
            0.23905956114613075,
            0.2833153642130726,
            0.33427928840525056,
            0.3948810434898141,
            0.46808355779072575,
        ],
    ),
    (
        1010,
        [
            8.292721812517005,
            8.493800965593458,
            7.9920939218193805,
            7.76264746818706,
            7.7136148970653595,
            7.3665015417328386,
        ],
        [
            0.26223888929713557,
            0.19362290127302603,
            0.12914681194236352,
            0.08865362311041246,
            0.06224902581802106,
            0.04202366386408188,
        ],
        [
            0.5339993107081461,
            0.5930791736152234,
            0.6521429882014952,
            0.715919568976119,
            0.7850893495787125,
            0.8619706308694712,
        ],
    ),
];

#[test]
fn gride_gives_the_reference_values() {
    for (seed, dimensions, errors, scales) in GRIDE {
        let reference = REFERENCES.iter().find(|reference| reference.seed == seed).unwrap();
        let cube = Lcg(seed).cube(reference.points, reference.dimension, reference.columns);
        let neighbours = nearest(cube.view(), GRIDE_NEIGHBOURS, Engine::Exact, &Silent).unwrap();
        let scan = gride_scan(&neighbours);
        assert_eq!(scan.iter().map(|s| s.neighbours.0).collect::<Vec<_>>(), [1, 2, 4, 8, 16, 32]);
        for (found, ((dimension, error), scale)) in scan.iter().zip_eq(dimensions.iter().zip_eq(errors).zip_eq(scales))
        {
            close(found.dimension, *dimension, 1e-6);
            close(found.standard_error, error, 1e-6);
            close(found.distance, scale, 1e-9);
        }
        close(scan[0].dimension, reference.mle, 1e-9);
    }
}

/// Points on a line: every ratio of a scale may be the same, or 1.
#[test]
fn gride_of_ratios_at_the_edge() {
    assert!(gride::solve(&[0.0; 100], 2, 4).is_infinite());
    let dimension = gride::solve(&[2f64.ln(); 1000], 8, 16);
    assert!((0.5..2.0).contains(&dimension), "{dimension}");
    let mut mixed = vec![0.0; 100];
    mixed[0] = 1e-9;
    assert!(gride::solve(&mixed, 2, 4) > 1e8);
}

/// Values of an independent program (numpy, all distances in float64), k = 2, 10 and 20.
#[test]
fn levina_bickel_gives_the_reference_values() {
    for (seed, expected) in [
        (1002, [1.8860775656261226, 1.8763672733247083, 1.9055323681577871]),
        (1005, [4.606765749245275, 4.51971635497428, 4.386299326424509]),
        (1010, [8.301022847005195, 8.084514665105003, 7.991333034015965]),
    ] {
        let reference = REFERENCES.iter().find(|reference| reference.seed == seed).unwrap();
        let cube = Lcg(seed).cube(reference.points, reference.dimension, reference.columns);
        let neighbours = nearest(cube.view(), 20, Engine::Exact, &Silent).unwrap();
        for (k, expected) in [2, 10, 20].into_iter().zip_eq(expected) {
            let found = levina_bickel(&neighbours, k);
            close(found.dimension, expected, 1e-9);
            close(found.standard_error, expected / (reference.points as f64 * (k - 1) as f64).sqrt(), 1e-9);
        }
    }
}

/// Values from an independent program (Prim's algorithm in float64 on prefixes of the points).
#[test]
fn spanning_trees_give_the_reference_values() {
    for (seed, points, step, alpha, expected) in [
        (1002, 500, 50, 1.0, 2.10166088),
        (1005, 1000, 100, 1.0, 4.23705120),
        (1010, 1000, 100, 1.0, 8.93992985),
        (1002, 500, 50, 0.5, 2.11976987),
        (1005, 1000, 100, 0.5, 4.33971471),
        (1010, 1000, 100, 0.5, 9.24663280),
    ] {
        let reference = REFERENCES.iter().find(|reference| reference.seed == seed).unwrap();
        let cube = Lcg(seed).cube(points, reference.dimension, reference.columns);
        let prefixes: Vec<Vec<u32>> = (1..=points / step).map(|n| (0..(n * step) as u32).collect()).collect();
        let settings = PersistentHomology { alpha, ..PersistentHomology::default() };
        let found = settings.of_samples(cube.view(), &prefixes, &Silent).unwrap();
        close(found.dimension.unwrap(), expected, 1e-8);
    }
}

#[test]
fn trees_of_random_samples_read_the_dimension() {
    let cube = Lcg(1005).cube(1000, 5, 30);
    let found = PersistentHomology::default().estimate(cube.view(), &Silent).unwrap();
    close(found.dimension.unwrap(), 4.6, 0.2);
    assert_eq!((found.lengths[0].points, found.lengths.last().unwrap().points), (50, 1000));
    assert_eq!(found, PersistentHomology::default().estimate(cube.view(), &Silent).unwrap());
    let few = cube.slice(ndarray::s![..50, ..]);
    let error = PersistentHomology::default().estimate(few, &Silent).unwrap_err();
    assert!(error.to_string().contains("at least 100"), "{error}");
}
