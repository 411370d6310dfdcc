//! Entities and their scores as seqeval gives them: `tests/golden/seqeval.json`, made by the script beside it.

use proptest::prelude::*;
use serde::Deserialize;

use crate::dataset::metric::{EntityScores, PrecisionRecall};
use crate::dataset::{Entity, TagScheme, spans};

/// Precision, recall, F1 and support.
type Row = (f64, f64, f64, usize);

#[derive(Deserialize)]
struct Scores {
    micro: Row,
    r#macro: Row,
    kinds: Vec<Row>,
}

#[derive(Deserialize)]
struct Case {
    scheme: TagScheme,
    truth: Vec<String>,
    predicted: Vec<String>,
    accuracy: f64,
    default: Scores,
    strict: Scores,
    default_first: Vec<(String, usize, usize)>,
    strict_first: Vec<(String, usize, usize)>,
}

fn split(sentences: &[String]) -> Vec<Vec<&str>> {
    sentences.iter().map(|tags| tags.split(' ').collect()).collect()
}

fn same(found: &PrecisionRecall, wanted: &Row) -> bool {
    let close = |a: f64, b: f64| (a - b).abs() < 1e-12;
    close(found.precision, wanted.0)
        && close(found.recall, wanted.1)
        && close(found.f1, wanted.2)
        && found.support == wanted.3
}

#[test]
fn entities_and_scores_are_those_of_seqeval() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/golden/seqeval.json");
    let cases: Vec<Case> = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
    assert!(cases.len() > 50);
    for (number, case) in cases.iter().enumerate() {
        let (truth, predicted) = (split(&case.truth), split(&case.predicted));
        for (strict, wanted, first) in
            [(false, &case.default, &case.default_first), (true, &case.strict, &case.strict_first)]
        {
            let scores = EntityScores::new(&truth, &predicted, case.scheme, strict).unwrap();
            let what = format!("case {number}, strict: {strict}: {scores:?}");
            assert!(same(&scores.overall, &wanted.micro), "{what}");
            assert!(same(&scores.macro_average, &wanted.r#macro), "{what}");
            assert_eq!(scores.kinds.len(), wanted.kinds.len(), "{what}");
            assert!(scores.kinds.values().zip(&wanted.kinds).all(|(found, wanted)| same(found, wanted)), "{what}");
            assert!((scores.accuracy - case.accuracy).abs() < 1e-12, "{what}");
            let entities: Vec<_> = spans(&truth[0], case.scheme, strict).unwrap();
            let entities: Vec<_> = entities.into_iter().map(|Entity { kind, start, end }| (kind, start, end)).collect();
            assert_eq!(&entities, first, "{what}");
        }
    }
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let error = |truth: &[Vec<&str>], predicted: &[Vec<&str>]| {
        EntityScores::new(truth, predicted, TagScheme::Iob2, true).unwrap_err().to_string()
    };
    let texts = [
        error(&[vec!["O"]], &[]),
        error(&[vec!["O"]], &[vec!["O", "O"]]),
        error(&[vec!["O"]], &[vec!["U-x"]]),
        error(&[vec!["x\ny"]], &[vec!["O"]]),
        "bmes".parse::<TagScheme>().unwrap_err(),
    ];
    insta::assert_snapshot!(texts.join("\n"), @r"
    0 predictions for 1 labels; give one for each
    2 predictions for 1 labels; give one for each
    `U-x` is no tag of the scheme iob2, whose tags are O, B-… and I-…; mend the tag, or give another scheme
    `x\ny` is no tag of the scheme iob2, whose tags are O, B-… and I-…; mend the tag, or give another scheme
    unknown tag scheme `bmes`; give iob1, iob2, bilou or iobes
    ");
    let nothing = EntityScores::new::<&str, &str>(&[], &[], TagScheme::Iob2, true).unwrap();
    assert_eq!(nothing, EntityScores::default());
}

#[test]
fn a_scheme_shows_in_its_tags() {
    let detect = |tags: &[&str]| TagScheme::detect(&[tags]);
    let scheme = |tags: &[&str]| detect(tags).map(|detected| (detected.scheme, detected.broken)).unwrap();
    assert_eq!(scheme(&["O", "O"]), (TagScheme::Iob2, None));
    assert_eq!(scheme(&["B-a", "I-a", "B-a", "B-b"]), (TagScheme::Iob2, None));
    assert_eq!(scheme(&["I-a", "I-a", "B-a", "I-b"]), (TagScheme::Iob1, None));
    assert_eq!(scheme(&["I-a", "O"]), (TagScheme::Iob1, None));
    assert_eq!(scheme(&["B-a", "O", "I-a"]), (TagScheme::Iob2, Some((0, 2))));
    assert_eq!(scheme(&["B-a", "L-a", "U-b"]), (TagScheme::Bilou, None));
    assert_eq!(scheme(&["B-a", "E-a", "S-b"]), (TagScheme::Iobes, None));
    assert_eq!(scheme(&["B-a", "S-b"]), (TagScheme::Iobes, Some((0, 1))));
    assert_eq!(scheme(&["S-b", "B-a"]), (TagScheme::Iobes, Some((0, 1))), "never closed");
    for wrong in [&["B-a", "PER"][..], &["L-a", "E-a"], &["I-a", "E-a"], &["b-a"], &["B-"], &[""], &["Ü-x"]] {
        assert!(detect(wrong).is_err(), "{wrong:?}");
    }
}

proptest! {
    /// Entities follow one another within the sentence, whatever the tags are.
    #[test]
    fn any_tags_have_entities_in_order(tags in prop::collection::vec("[BIOELSU.é]?-?[ab-]{0,2}", 0..12), scheme in 0..4_usize) {
        for strict in [false, true] {
            let Ok(entities) = spans(&tags, TagScheme::ALL[scheme], strict) else {
                prop_assert!(strict);
                continue;
            };
            prop_assert!(entities.iter().all(|entity| entity.start < entity.end && entity.end <= tags.len()));
            prop_assert!(entities.windows(2).all(|pair| pair[0].end <= pair[1].end));
        }
        let _ = TagScheme::detect(&[&tags]);
        let same = EntityScores::new(std::slice::from_ref(&tags), std::slice::from_ref(&tags), TagScheme::Iob2, false).unwrap();
        prop_assert!(same.overall.support == 0 || same.overall.f1 == 1.0);
    }
}
