//! Words for what a cure names: options of the commands, or keys of a configuration for `gelora run`.

use std::path::Path;

use crate::hint::{Advice, Hint, Value, or};

/// Where a user gives a setting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Home {
    /// In this section of a configuration, as the key of the field's name; on the command line, as an option of several commands.
    Section(&'static str),
    /// As an option of every command.
    Everywhere,
    /// As an option of this command alone.
    Command(&'static str),
}

/// The option of a hint, and where it is given.
fn option(hint: Hint) -> (&'static str, Home) {
    use Home::{Command, Everywhere, Section};
    match hint {
        Hint::Task => ("task", Section("data")),
        Hint::Text => ("text", Section("data")),
        Hint::Label => ("label", Section("data")),
        Hint::Labels => ("labels", Section("data")),
        Hint::Objective => ("objective", Section("data")),
        Hint::Format => ("format", Section("data")),
        Hint::Quoting | Hint::QuotingInWarning => ("quoting", Section("data")),
        Hint::MaximumLength => ("max-length", Section("data")),
        Hint::Stride => ("stride", Section("data")),
        Hint::Scheme => ("scheme", Section("data")),
        Hint::Strict => ("strict", Section("data")),
        Hint::Validation => ("validation", Section("data")),
        Hint::Predictions => ("predictions", Command("evaluate")),
        Hint::Pooling => ("pooling", Section("plan")),
        Hint::BatchTokens => ("batch-tokens", Section("plan")),
        Hint::Stratified => ("stratified", Section("plan")),
        Hint::Until => ("until", Section("plan")),
        Hint::Subsamples => ("subsamples", Section("plan")),
        Hint::MiniBatch => ("mini-batch", Section("plan")),
        Hint::Neighbours => ("neighbours", Section("plan")),
        Hint::Tensor => ("tensor", Command("dimension")),
        Hint::MinimumRank => ("minimum-rank", Section("plan")),
        Hint::Budget => ("budget", Section("plan")),
        Hint::Projections => ("projections", Section("plan")),
        Hint::Method => ("method", Section("train")),
        Hint::BatchSize => ("batch-size", Section("train")),
        Hint::Precision => ("precision", Section("train")),
        Hint::Head | Hint::HeadInBackticks => ("head", Section("train")),
        Hint::Restart => ("restart", Command("train")),
        Hint::Start => ("start", Command("train")),
        Hint::Plan | Hint::TrainAtPlan => ("plan", Command("train")),
        Hint::BaseChanged => ("base-changed", Command("merge")),
        Hint::Device => ("device", Everywhere),
        Hint::Threads => ("threads", Everywhere),
        Hint::OrtLib => ("ort-lib", Everywhere),
        Hint::Expose | Hint::Tap => ("tap", Command("expose")),
        Hint::TapList => ("tap-list", Command("expose")),
        Hint::SwitchOffDropout | Hint::CopyWithoutDropout | Hint::DropoutInCopy => ("eval", Command("expose")),
        Hint::CheckOfCopy => ("no-check", Command("expose")),
        Hint::ReplaceStore => ("overwrite", Command("extract")),
        Hint::MakePlan => ("out", Command("plan")),
    }
}

/// An advice as options of the commands.
pub(super) fn of_commands(advice: &Advice) -> String {
    let Advice { hint, value } = advice;
    let (name, home) = option(*hint);
    let given = if let Value::One(given) = value { given } else { "…" };
    let said = match value {
        Value::Any => format!("--{name}"),
        Value::One(value) => format!("--{name} {value}"),
        // Written out with its value, to be copied.
        Value::OneOf(values) if *hint == Hint::Head => or(values.iter().map(|value| format!("--{name} {value}"))),
        Value::OneOf(values) => format!("--{name} {}", or(*values)),
    };
    match (hint, home) {
        (Hint::HeadInBackticks, _) => format!("`{said}`"),
        (Hint::QuotingInWarning, _) => format!("{said}; in a configuration quoting = {given}"),
        (Hint::Expose | Hint::ReplaceStore, Home::Command(command)) => format!("`gelora {command} {said}`"),
        (Hint::SwitchOffDropout, _) => format!("`gelora expose {said} -o FIXED`"),
        (Hint::CopyWithoutDropout, _) => format!("gelora expose {given} --{name} -o FOLDER"),
        (Hint::MakePlan, _) => format!("`gelora plan … -o {given}`"),
        (Hint::TrainAtPlan, _) => format!("`gelora train {said}`"),
        _ => said,
    }
}

/// An advice as keys of the configuration of `gelora run`, which writes to the folder `out`; a setting without a key is named as
/// an option of `gelora run` or of another command.
#[cfg_attr(not(feature = "train"), allow(dead_code, reason = "only a build with training runs a configuration"))]
pub(super) fn of_run(advice: &Advice, out: &Path) -> String {
    if advice.hint == Hint::Restart {
        return format!("{} removed", out.join("adapter").display());
    }
    match option(advice.hint) {
        (_, Home::Section(section)) => format!("{} in [{section}]", advice.in_library()),
        (_, Home::Everywhere) => of_commands(advice),
        (_, Home::Command(command)) => {
            let said = of_commands(advice);
            if said.contains("gelora ") { said } else { format!("`gelora {command} {said}`") }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::command;
    use crate::hint::LibraryName;
    use crate::settings::Config;

    /// Whether a command has an option.
    fn has(command: &clap::Command, option: &str) -> bool {
        command.get_arguments().any(|argument| argument.get_long() == Some(option))
    }

    #[test]
    fn every_option_of_a_hint_is_one() {
        let mut all = command();
        all.build();
        let commands = || all.get_subcommands().filter(|command| command.get_name() != "help");
        for hint in Hint::ALL {
            let (name, home) = option(*hint);
            let there = match home {
                Home::Section(_) => commands().any(|command| has(command, name)),
                Home::Everywhere => commands().all(|command| has(command, name)),
                Home::Command(command) => all.find_subcommand(command).is_some_and(|command| has(command, name)),
            };
            assert!(there, "{hint:?}: {name} of {home:?}");
        }
    }

    #[test]
    fn every_key_of_a_hint_is_one() {
        // Defaults are not always written.
        let text = "[model]\npath = \"m\"\n[data]\ntrain = \"t.tsv\"\n[train]\nmethod = \"bitfit\"\nprecision = \"bfloat16\"\n[output]\nfolder = \"out\"\n";
        let config: Config = toml::from_str(text).unwrap();
        let sections = serde_json::to_value(config).unwrap();
        for hint in Hint::ALL {
            if let (_, Home::Section(section)) = option(*hint) {
                let LibraryName::Field(key) = hint.place() else { panic!("{hint:?} is no field") };
                assert!(sections[section].get(key).is_some(), "{hint:?}: {key} in [{section}]");
            }
        }
    }

    /// The names of fields and paths of functions, which must exist for this to compile.
    #[cfg(feature = "train")]
    macro_rules! places {
        ($($Type:ident.$field:ident),*; $($first:ident $(::$more:ident)*),*) => {{
            $( let _ = std::mem::offset_of!($Type, $field); )*
            $( let _ = crate::$first $(::$more)*; )*
            [$( LibraryName::Field(stringify!($field)), )* $( LibraryName::Function(concat!(stringify!($first) $(, "::", stringify!($more))*)), )*]
        }};
    }

    #[cfg(feature = "train")]
    #[test]
    fn every_field_and_function_of_a_hint_is_one() {
        use crate::activations::ExtractSettings;
        use crate::merge::MergeSettings;
        use crate::settings::{DeviceSettings, TrainSettings};
        use crate::workflow::{DimensionRequest, EvaluationSettings, ExposeSettings, Training};
        let known = places!(
            EvaluationSettings.predictions, DimensionRequest.tensor, TrainSettings.restart, TrainSettings.device,
            Training.start, Training.plan, MergeSettings.base_changed, ExtractSettings.overwrite, DeviceSettings.threads,
            DeviceSettings.ort_lib, ExposeSettings.eval, ExposeSettings.check;
            onnx::expose, onnx::HiddenStates::matching, onnx::HiddenStates::named, onnx::disable_training_mode,
            workflow::make_plan, workflow::train_at_plan
        );
        for hint in Hint::ALL.iter().filter(|hint| !matches!(option(**hint), (_, Home::Section(_)))) {
            assert!(known.contains(&hint.place()), "{hint:?}");
        }
    }

    #[test]
    fn hints_are_options_of_the_single_commands() {
        let said = |advice: Advice| of_commands(&advice);
        assert_eq!(said(Hint::Label.into()), "--label");
        assert_eq!(said(Hint::Labels.with("A,B,…")), "--labels A,B,…");
        assert_eq!(said(Hint::MaximumLength.with(510)), "--max-length 510");
        assert_eq!(said(Hint::Format.one_of(&["tsv", "csv", "txt"])), "--format tsv, csv or txt");
        assert_eq!(said(Hint::Head.one_of(&["first", "mean", "last"])), "--head first, --head mean or --head last");
        assert_eq!(said(Hint::HeadInBackticks.with("first")), "`--head first`");
        assert_eq!(said(Hint::QuotingInWarning.with(true)), "--quoting true; in a configuration quoting = true");
        assert_eq!(said(Hint::Restart.into()), "--restart");
        assert_eq!(said(Hint::Expose.into()), "`gelora expose --tap`");
        assert_eq!(said(Hint::Tap.into()), "--tap");
        assert_eq!(said(Hint::SwitchOffDropout.with("m")), "`gelora expose --eval m -o FIXED`");
        assert_eq!(said(Hint::CopyWithoutDropout.with("m")), "gelora expose m --eval -o FOLDER");
        assert_eq!(said(Hint::ReplaceStore.into()), "`gelora extract --overwrite`");
        assert_eq!(said(Hint::MakePlan.with("out")), "`gelora plan … -o out`");
        assert_eq!(said(Hint::TrainAtPlan.with("plan.json")), "`gelora train --plan plan.json`");
    }

    #[test]
    fn hints_are_keys_for_a_run() {
        let said = |advice: Advice| of_run(&advice, Path::new("out"));
        assert_eq!(said(Hint::Labels.into()), "`labels` in [data]");
        assert_eq!(said(Hint::Task.with("squad")), "`task = \"squad\"` in [data]");
        assert_eq!(said(Hint::Method.with("lora")), "`method = \"lora\"` in [train]");
        assert_eq!(said(Hint::QuotingInWarning.with(true)), "`quoting = true` in [data]");
        assert_eq!(said(Hint::Head.one_of(&["first", "mean"])), "`head` = first or mean in [train]");
        assert_eq!(said(Hint::Restart.into()), "out/adapter removed");
        assert_eq!(said(Hint::Device.with("cpu")), "--device cpu", "this command has it too");
        assert_eq!(said(Hint::OrtLib.into()), "--ort-lib");
        assert_eq!(said(Hint::Expose.into()), "`gelora expose --tap`");
        assert_eq!(said(Hint::BaseChanged.into()), "`gelora merge --base-changed`");
        assert_eq!(said(Hint::TrainAtPlan.with("out/plan.json")), "`gelora train --plan out/plan.json`");
    }
}
