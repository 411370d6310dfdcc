//! Exports of many families in many forms: whether gelora finds their hidden states and weights, trains and merges them as
//! transformers, ONNX Runtime and PEFT do. `docs/exports.md` is generated from the results.

mod examine;
mod table;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use gelora::files::sha256_file;
use gelora::runtime::Library;

use crate::python::{output_of, repository, text};
use crate::runtime::library;
use examine::{Fixture, Outcome, examine};

/// Families whose exports are examined in one process; the other half is examined beside it.
const SIDE_BY_SIDE: usize = 2;

/// Examined in every run of the tests: these forms of all families, and all forms of these families.
const EVERYDAY_FORMS: [&str; 3] = ["classic", "dynamo", "float16"];
const EVERYDAY_FAMILIES: [&str; 7] = ["bert", "llama", "xlm", "nomic-bert", "lfm2", "bart", "t5"];

#[test]
fn exports_of_many_families_are_understood() {
    examine_all(|family, form| EVERYDAY_FORMS.contains(&form) || EVERYDAY_FAMILIES.contains(&family));
}

#[test]
#[ignore = "takes half an hour: ./scripts/test.sh exports"]
fn exports_of_all_families_in_all_forms_are_understood() {
    examine_all(|_, _| true);
}

/// Examines the selected exports, and compares the results with the page. Both tests write the same folder, so one waits.
fn examine_all(wanted: fn(&str, &str) -> bool) {
    static FOLDER: Mutex<()> = Mutex::new(());
    let _alone = FOLDER.lock().unwrap_or_else(PoisonError::into_inner);
    let Some(library) = library() else { return };
    let Some(list) = output_of("scripts/make_fixtures.py", &["--list"]) else { return };
    let names = |what: &str| -> Vec<String> {
        let line = list.lines().find_map(|line| line.strip_prefix(what)).expect("the script lists them");
        line.split_whitespace().map(str::to_owned).collect()
    };
    let (mut families, mut forms) = (names("families:"), names("forms:"));
    // Restricts the names, for work on a few of them.
    let only = |variable: &str, names: &mut Vec<String>| {
        let only = std::env::var(variable).ok();
        only.inspect(|only| names.retain(|name| only.split(',').any(|wanted| wanted == name))).is_some()
    };
    let some = only("GELORA_FAMILIES", &mut families) | only("GELORA_FORMS", &mut forms);
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("families");
    let outcomes: BTreeMap<String, Outcome> = std::thread::scope(|scope| {
        let part = |number: usize| families.iter().skip(number).step_by(SIDE_BY_SIDE).cloned().collect::<Vec<_>>();
        let threads: Vec<_> = (0..SIDE_BY_SIDE)
            .map(|number| {
                let (part, root, forms) = (part(number), &root, &forms);
                scope.spawn(move || {
                    part.iter()
                        .flat_map(|family| {
                            let forms: Vec<String> =
                                forms.iter().filter(|form| wanted(family, form)).cloned().collect();
                            family_outcomes(library, root, family, &forms)
                        })
                        .collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().expect("no panic in an examination")).collect()
    });
    for (name, outcome) in &outcomes {
        println!("{name:32} {outcome}");
    }
    let all = families.iter().all(|family| forms.iter().all(|form| wanted(family, form)));
    if all && !some {
        table::compare(&families, &forms, &outcomes);
    } else {
        table::compare_cells(&outcomes);
    }
    let wrong: Vec<String> =
        outcomes.iter().filter_map(|(name, outcome)| Some(format!("{name}: {}", outcome.wrong()?))).collect();
    assert!(wrong.is_empty(), "computed, but not rightly:\n{}", wrong.join("\n"));
}

/// Makes the fixtures of a family (once per version of the script and selection of forms) and examines them.
fn family_outcomes(library: &Library, root: &Path, family: &str, forms: &[String]) -> Vec<(String, Outcome)> {
    let script = repository("scripts/make_fixtures.py");
    // Fixtures made of these forms only are made again for others.
    let version = format!("{} {}", sha256_file(&script).expect("the script is there"), forms.join(" "));
    let stamp = root.join(format!("{family}.made"));
    if std::fs::read_to_string(&stamp).ok().as_deref() != Some(&version) {
        let forms = forms.iter().map(String::as_str);
        let arguments: Vec<&str> = [text(root), "--families", family, "--forms"].into_iter().chain(forms).collect();
        output_of("scripts/make_fixtures.py", &arguments);
        std::fs::write(&stamp, version).expect("the folder is there");
    }
    let fixtures =
        forms.iter().filter_map(|form| Fixture::open(&root.join(family).join(form), format!("{family}/{form}")));
    let merged = root.join("merged").join(family);
    let _ = std::fs::remove_dir_all(&merged);
    let mut outcomes: Vec<(String, Outcome)> = fixtures
        .map(|fixture| {
            let out: PathBuf = merged.join(fixture.form());
            (fixture.name.clone(), examine(library, &fixture, &out))
        })
        .collect();
    let checked = output_of("tests/python/family_merges.py", &[text(root), text(&root.join("merged")), family])
        .unwrap_or_default();
    for line in checked.lines() {
        let mut words = line.split(' ');
        let name = words.next().unwrap_or_default();
        let differences = words.map(str::parse::<f64>).collect::<Result<Vec<f64>, _>>();
        let outcome = outcomes.iter_mut().find(|(known, _)| known == name).expect("it was merged");
        outcome.1.merged(differences.ok().as_deref());
    }
    outcomes
}
