//! Dimensions against reference values of other packages on real activations, and the library example.

use gelora::dimension::{
    GRIDE_NEIGHBOURS, LayerDimension, MeasureSettings, Measurement, Method, Prepared, Scale, TwoNn, gride_scan,
    measure, prepare, standard_error,
};
use gelora::neighbours::{Engine, nearest};
use gelora::progress::Silent;
use itertools::Itertools;
use ndarray::Array2;

use crate::testing::shared;

fn close(found: f64, expected: &serde_json::Value, what: &str) {
    let expected = expected.as_f64().unwrap_or_else(|| panic!("{what} is not in the file"));
    assert!((found - expected).abs() <= 1e-6 * expected, "{what}: {found} is not {expected}");
}

#[test]
fn activations_have_the_dimensions_other_packages_find() {
    let Some(folder) = shared("golden") else { return };
    let text = std::fs::read_to_string(folder.join("estimators.json")).unwrap();
    let reference: serde_json::Value = serde_json::from_str(&text).unwrap();
    let cases = reference["cases"].as_array().unwrap();
    let mut checked = 0;
    for case in cases.iter().filter(|case| case["file"].is_string()) {
        let file = case["file"].as_str().unwrap();
        let points: Array2<f32> = ndarray_npy::read_npy(folder.join(file)).unwrap();
        let methods = [
            ("twonn_linear_discard_0_1", Method::Linear { discard: 0.1 }),
            ("skdim_twonn", Method::Linear { discard: 0.1 }),
            ("twonn_mle", Method::MaximumLikelihood),
            ("twonn_censored_mle_discard_0_1", Method::CensoredMaximumLikelihood { discard: 0.1 }),
        ];
        let Prepared::Cloud(cloud) = prepare(points.view(), 2, &TwoNn::default(), &Silent).unwrap() else {
            panic!("{file} is degenerate")
        };
        for (name, method) in methods {
            let found = TwoNn { method, ..TwoNn::default() }.estimate_cloud(&cloud).unwrap();
            let LayerDimension::Estimate(found) = found else { panic!("{found:?}") };
            close(found.dimension, &case[name], &format!("{file} {name}"));
            close(found.mean_distances.0, &case["mean_r1"], file);
            close(found.mean_distances.1, &case["mean_r2"], file);
        }
        let far = nearest(points.view(), GRIDE_NEIGHBOURS, Engine::Exact, &Silent).unwrap();
        for (at, found) in gride_scan(&far).iter().enumerate() {
            let what = format!("{file} GRIDE {at}");
            close(found.dimension, &case["gride"][at], &what);
            close(found.standard_error, &case["gride_error"][at], &what);
            close(found.distance, &case["gride_scale"][at], &what);
        }
        let exact = &cloud.neighbours;
        let tree = nearest(points.view(), 2, Engine::BallTree, &Silent).unwrap();
        assert_eq!((&exact.indices, &exact.distances), (&tree.indices, &tree.distances));
        close(exact.distances[[0, 0]], &case["first_row_r"][0], file);
        close(exact.distances[[0, 1]], &case["first_row_r"][1], file);
        checked += 1;
    }
    assert_eq!(checked, 4);
}

/// Real layers of one encoder: the interval of the plan agrees with the analytic one, shared rows make differences between
/// layers more certain than dimensions, and no rank is certain with 1,500 phrases.
#[test]
fn layers_of_an_encoder_have_joint_uncertainty() {
    let Some(folder) = shared("golden") else { return };
    let settings = MeasureSettings { subsamples: 40, ..MeasureSettings::default() };
    let measured: Vec<Measurement> = ["minilm_mean1.npy", "minilm_mean3.npy"]
        .into_iter()
        .map(|file| {
            let layer: Array2<f32> = ndarray_npy::read_npy(folder.join(file)).unwrap();
            measure(layer.view(), &settings, &Silent).unwrap()
        })
        .collect();
    for layer in &measured {
        assert_eq!(layer.readings.len(), Scale::ALL.len());
        for (reading, at) in layer.readings.iter().zip(&layer.curve) {
            let ratio = standard_error(&reading.deviations).unwrap() / reading.analytic_error;
            // The farther the neighbours, the more of them points share.
            let limit = 2.5 * (reading.scale.near() as f64).sqrt();
            assert!((0.5..limit).contains(&ratio), "{} {ratio}", reading.scale);
            assert_eq!(reading.dimension, at.dimension);
        }
        assert_eq!(layer.decimation.iter().map(|at| at.points).collect::<Vec<_>>(), [1500, 750, 375, 187]);
        assert_eq!(layer.curve.len(), 6);
    }
    for scale in [Scale::NEAREST, Scale::ALL[3]] {
        let [a, b] = [0, 1].map(|layer| &measured[layer].at(scale).unwrap().deviations);
        let joint: Vec<f64> = a.iter().zip_eq(b).map(|(a, b)| b - a).collect();
        let separate = standard_error(a).unwrap().hypot(standard_error(b).unwrap());
        assert!(standard_error(&joint).unwrap() < 0.9 * separate, "{scale}: {:?} {separate}", standard_error(&joint));
    }
}
