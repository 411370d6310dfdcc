//! The weight of every class, or every label, in the loss.

use super::super::error::TrainError;
use crate::settings::{ClassWeights, SettingError};
use crate::task::{Objective, Targets};

/// For classes the weights in cross entropy; for labels the factor on rows with the label (`pos_weight`).
///
/// `balanced` is scikit-learn's: `rows / (classes · rows of the class)`, over the classes that have rows (for entities, tokens);
/// for labels, the number of rows without the label over the number with it. The weight is 1 for a class or label that no row
/// has, and for a label that all rows have.
///
/// # Errors
/// If the task has no classes, or the number of weights is not that of the classes.
pub fn class_weights(
    wanted: Option<&ClassWeights>,
    objective: &Objective,
    targets: &Targets,
) -> Result<Option<Vec<f64>>, TrainError> {
    let Some(wanted) = wanted else { return Ok(None) };
    let count = check_class_weights(wanted, objective)?;
    Ok(Some(match wanted {
        ClassWeights::Given(weights) => weights.clone(),
        ClassWeights::Balanced => balanced(count, targets),
    }))
}

/// Checks class weights and returns the number of classes.
///
/// # Errors
/// If the task has no classes, or the number of weights is not that of the classes.
pub fn check_class_weights(wanted: &ClassWeights, objective: &Objective) -> Result<usize, SettingError> {
    let Some(count) = objective.classes().map(<[String]>::len) else {
        let found = format!("has no use for {}", objective.in_words());
        return Err(SettingError::new("class_weights", found, "leave it out"));
    };
    match wanted {
        ClassWeights::Given(weights) if weights.len() != count => {
            let found = format!("has {} weights for {count} classes", weights.len());
            Err(SettingError::new("class_weights", found, format!("give {count}, in their order")))
        }
        _ => Ok(count),
    }
}

fn balanced(count: usize, targets: &Targets) -> Vec<f64> {
    let rows = targets.len() as f64;
    let mut counts = vec![0.0; count];
    match targets {
        Targets::Classes(classes) => by_class(counts, &mut classes.iter().copied()),
        Targets::TokenClasses(rows) => by_class(counts, &mut rows.iter().flatten().flatten().copied()),
        Targets::LabelSets(sets) => {
            for set in sets {
                counts.iter_mut().zip(set).for_each(|(count, &has)| *count += f64::from(u8::from(has)));
            }
            let weight = |&count: &f64| if 0.0 < count && count < rows { (rows - count) / count } else { 1.0 };
            counts.iter().map(weight).collect()
        }
        _ => vec![1.0; count],
    }
}

/// Balanced weights of mutually exclusive classes.
fn by_class(mut counts: Vec<f64>, classes: &mut dyn Iterator<Item = usize>) -> Vec<f64> {
    for class in classes {
        if let Some(count) = counts.get_mut(class) {
            *count += 1.0;
        }
    }
    let (all, present) = (counts.iter().sum::<f64>(), counts.iter().filter(|count| **count > 0.0).count() as f64);
    counts.iter().map(|&count| if count > 0.0 { all / (present * count) } else { 1.0 }).collect()
}
