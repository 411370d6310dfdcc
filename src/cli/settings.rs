//! From what the user said (arguments or configuration) to what the rooms take.

use crate::activations::{ExtractSettings, Pooling, Provenance};
use crate::dimension::{Method, Representation, Scale, TwoNn};
use crate::neighbours::Engine;
use crate::onnx::Role;
use crate::rank::{RankSettings, Rounding};

use super::arguments::{ColumnArguments, DataArguments, DimensionArguments, ExtractionArguments, RankArguments};
use super::config::{self, DataSection, PlanSection, Projection};
use super::context::Context;
use super::rows::Rows;

impl ColumnArguments {
    /// As `[data]` of a configuration would say it, with these rows.
    pub(crate) fn section(self, rows: std::path::PathBuf) -> DataSection {
        DataSection {
            task: self.task,
            train: rows,
            dev: None,
            test: None,
            text: self.text,
            pair: self.pair,
            label: self.label,
            template: self.language.template,
            template_without_input: self.language.template_without_input,
            packing: self.language.packing,
            labels: self.labels,
            objective: self.objective,
            format: self.format,
            quoting: self.quoting,
            max_length: self.max_length,
            limit: self.limit,
            stride: self.spans.stride,
            max_answer_length: self.spans.max_answer_length,
            n_best: self.spans.n_best,
            null_threshold: self.spans.null_threshold,
            metrics: None,
        }
    }
}

impl DataArguments {
    /// As `[data]` of a configuration would say it.
    pub(crate) fn section(self) -> DataSection {
        self.columns.section(self.data)
    }
}

impl DimensionArguments {
    /// As `[plan]` of a configuration would say it, the rest as usual.
    pub(crate) fn section(&self) -> PlanSection {
        PlanSection {
            method: self.method,
            discard: self.discard,
            representation: self.representation,
            metric: self.metric,
            neighbours: self.neighbours,
            scale: self.scale.near(),
            ..PlanSection::default()
        }
    }
}

impl ExtractionArguments {
    /// Enters these into `[plan]`.
    pub(crate) fn enter(&self, section: PlanSection) -> PlanSection {
        PlanSection {
            pooling: self.pooling,
            tokens_per_text: self.tokens_per_text,
            batch_tokens: self.batch_tokens,
            rows: self.sample,
            stratified: self.stratified,
            until: self.until,
            seed: self.seed,
            ..section
        }
    }
}

impl RankArguments {
    /// Enters these into `[plan]`.
    pub(crate) fn enter(self, section: PlanSection) -> PlanSection {
        PlanSection {
            rounding: self.rounding,
            offset: self.offset,
            minimum_rank: self.minimum_rank,
            maximum_rank: self.maximum_rank,
            budget: self.budget,
            confidence: self.confidence,
            scaling: self.scaling,
            projections: self.projections,
            subsamples: self.subsamples,
            ..section
        }
    }
}

impl PlanSection {
    /// How the dimension is estimated.
    pub(crate) fn two_nn(&self) -> TwoNn {
        let method = match self.method {
            config::Method::Linear => Method::Linear { discard: self.discard },
            config::Method::MaximumLikelihood => Method::MaximumLikelihood,
            config::Method::CensoredMaximumLikelihood => Method::CensoredMaximumLikelihood { discard: self.discard },
        };
        let engine = match self.neighbours {
            config::Neighbours::Auto => Engine::Auto,
            config::Neighbours::BallTree => Engine::BallTree,
            config::Neighbours::KdTree => Engine::KdTree,
            config::Neighbours::Exact => Engine::Exact,
        };
        TwoNn { method, engine, ..TwoNn::default() }
    }

    /// What is done to vectors before distances are measured.
    pub(crate) fn representation(&self) -> Representation {
        Representation { frame: self.representation, metric: self.metric }
    }

    /// The scale, where one was asked for.
    pub(crate) fn scale(&self) -> Option<Scale> {
        Scale::ALL.into_iter().find(|scale| Some(scale.near()) == self.scale)
    }

    /// What stands for a row.
    pub(crate) fn pooling(&self) -> Pooling {
        match self.pooling {
            config::Pooling::Mean => Pooling::Mean,
            config::Pooling::First => Pooling::First,
            config::Pooling::Last => Pooling::Last,
            config::Pooling::Tokens => Pooling::Tokens { per_row: self.tokens_per_text, seed: self.seed },
        }
    }

    /// How activations are extracted.
    pub(crate) fn extraction(&self, context: &Context, rows: &Rows, overwrite: bool) -> ExtractSettings {
        ExtractSettings {
            pooling: self.pooling(),
            session: context.session_settings(),
            library: context.ort_lib().map(Into::into),
            batch_tokens: self.batch_tokens,
            overwrite,
            provenance: Provenance {
                data: Some(rows.path().to_owned()),
                data_sha256: Some(rows.sha256().to_owned()),
                ..Provenance::default()
            },
            ..ExtractSettings::default()
        }
    }

    /// How dimensions become ranks.
    pub(crate) fn rank_settings(&self) -> RankSettings {
        RankSettings {
            rounding: match self.rounding {
                config::Rounding::Ceil => Rounding::Ceil,
                config::Rounding::Round => Rounding::Round,
                config::Rounding::Floor => Rounding::Floor,
            },
            offset: self.offset,
            minimum: self.minimum_rank,
            maximum: self.maximum_rank,
            scale: self.scale(),
            confidence: self.confidence,
            budget: self.budget,
            scaling: self.scaling,
            projections: self.roles(),
            subsamples: self.subsamples,
            seed: self.seed,
        }
    }

    /// The weights that get adapters.
    fn roles(&self) -> Vec<Role> {
        let mut roles = Vec::new();
        for projection in &self.projections {
            roles.extend(match projection {
                Projection::Query => vec![Role::Query],
                Projection::Key => vec![Role::Key],
                Projection::Value => vec![Role::Value],
                Projection::QueryKeyValue => vec![Role::QueryKeyValue],
                Projection::Output => vec![Role::Output],
                Projection::FeedForward => vec![Role::FeedForward],
                Projection::All => vec![
                    Role::Query,
                    Role::Key,
                    Role::Value,
                    Role::QueryKeyValue,
                    Role::Output,
                    Role::FeedForward,
                    Role::Other,
                ],
            });
        }
        roles.sort_unstable();
        roles.dedup();
        roles
    }
}

#[cfg(feature = "train")]
mod training {
    use crate::cli::arguments::TrainingArguments;
    use crate::cli::config::{self, TrainSection};
    use crate::cli::context::Context;
    use crate::onnx::HeadPooling;
    use crate::train::{Batching, Kernels, Schedule, TrainSettings, WarmUp};

    impl TrainingArguments {
        /// As `[train]` of a configuration would say it.
        pub(crate) fn section(self) -> TrainSection {
            let usual = TrainSection::default();
            TrainSection {
                epochs: self.epochs,
                maximum_steps: self.maximum_steps,
                batch_size: self.batch_size,
                accumulation: self.accumulation,
                learning_rate: self.learning_rate,
                schedule: self.schedule,
                warmup_ratio: self.warmup_ratio,
                warmup_steps: self.warmup_steps,
                weight_decay: self.weight_decay,
                clip_norm: self.clip_norm,
                dropout: self.dropout,
                seed: self.seed,
                batching: self.batching,
                head: self.head,
                linear: self.linear,
                evaluation_tokens: usual.evaluation_tokens,
                evaluate_before: usual.evaluate_before,
                patience: self.patience,
                log_every: self.log_every,
                save_every: self.save_every,
            }
        }
    }

    impl TrainSection {
        /// What the trainer takes.
        pub(crate) fn settings(&self, context: &Context, restart: bool) -> TrainSettings {
            let usual = TrainSettings::default();
            let (device, threads) = context.training();
            TrainSettings {
                epochs: self.epochs,
                maximum_steps: self.maximum_steps,
                batch_size: self.batch_size,
                accumulation: self.accumulation,
                learning_rate: self.learning_rate,
                weight_decay: self.weight_decay,
                schedule: match self.schedule {
                    config::Schedule::Linear => Schedule::Linear,
                    config::Schedule::Cosine => Schedule::Cosine,
                    config::Schedule::Constant => Schedule::Constant,
                },
                warm_up: match (self.warmup_steps, self.warmup_ratio) {
                    (Some(steps), _) => WarmUp::Steps(steps),
                    (None, Some(ratio)) => WarmUp::Ratio(ratio),
                    (None, None) => usual.warm_up,
                },
                clip_norm: (self.clip_norm > 0.0).then_some(self.clip_norm),
                dropout: self.dropout,
                seed: self.seed,
                device,
                threads,
                kernels: match self.linear {
                    config::Linear::Auto => Kernels::Auto,
                    config::Linear::Torch => Kernels::Torch,
                    config::Linear::OneDnn => Kernels::OneDnn,
                },
                batching: match self.batching {
                    config::Batching::Shuffled => Batching::Shuffled,
                    config::Batching::Bucketed => Batching::Bucketed,
                },
                head: self.head.map(|head| match head {
                    config::Head::First => HeadPooling::First,
                    config::Head::Mean => HeadPooling::Mean,
                    config::Head::Last => HeadPooling::Last,
                }),
                evaluation_tokens: self.evaluation_tokens,
                evaluate_before: self.evaluate_before,
                patience: self.patience,
                log_every: self.log_every,
                save_every: self.save_every,
                restart,
                ..usual
            }
        }
    }
}
