//! `[plan]`: how activations are made, dimensions estimated and ranks chosen.

use std::fmt;
use std::str::FromStr;

use clap::Args;
use clap::builder::RangedU64ValueParser;
use serde::{Deserialize, Serialize};

use crate::activations::{Pooling, PoolingKind};
use crate::dimension::{DistanceMetric, Method, MethodKind, Preprocessing, Representation, Scale, TwoNn};
use crate::neighbours::Engine;
use crate::onnx::Role;
use crate::rank::{RankSettings, Rounding};
use crate::settings_value::{SettingError, at_least, number, word};

/// Defines a section of the configuration together with the groups of command-line options that fill it: every setting is
/// defined here once, with its help, its option and its default.
macro_rules! section_of_groups {
    (
        $(#[$about:meta])*
        pub struct $Section:ident {
            $(
                $(#[$group:meta])*
                $Group:ident {
                    $( $(#[doc = $doc:expr])* #[arg($($arg:tt)*)] $name:ident: $Type:ty = $default:expr, )*
                }
            )*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
        #[serde(deny_unknown_fields, default)]
        pub struct $Section {
            $( $( $(#[doc = $doc])* pub $name: $Type, )* )*
        }

        impl Default for $Section {
            fn default() -> Self {
                $Section { $( $( $name: $default, )* )* }
            }
        }

        $(
            #[derive(Debug, Clone, Args)]
            $(#[$group])*
            pub struct $Group {
                $( $(#[doc = $doc])* #[arg($($arg)*)] pub $name: $Type, )*
            }

            impl $Group {
                /// Copies these options into the section.
                pub fn enter(self, section: &mut $Section) {
                    $( section.$name = self.$name; )*
                }

                /// A section with these options, the rest at the defaults.
                pub fn section(self) -> $Section {
                    let mut section = $Section::default();
                    self.enter(&mut section);
                    section
                }
            }
        )*
    };
}

section_of_groups! {
    /// How activations are made, dimensions estimated and ranks chosen.
    pub struct PlanSettings {
        /// How activations are made.
        #[command(next_help_heading = "Activations")]
        ExtractionOptions {
            /// What stands for a text: mean, first, last (one vector per text) or tokens (a sample of its token vectors)
            #[arg(long, value_name = "POOLING", default_value_t, value_parser = word::<PoolingKind>)]
            pooling: PoolingKind = PoolingKind::Mean,

            /// With --pooling tokens: vectors per text
            #[arg(long, value_name = "N", default_value_t = PlanSettings::default().tokens_per_text)]
            tokens_per_text: usize = 4,

            /// Tokens per batch, padding included [default: what suits the device and the model]
            #[arg(long, value_name = "TOKENS")]
            batch_tokens: Option<usize> = None,

            /// Sample at most so many rows, drawn with --seed [default: all]
            #[arg(long = "sample", visible_alias = "rows", value_name = "N")]
            rows: Option<usize> = None,

            /// With --sample: in proportion to the labels
            #[arg(long, requires = "rows")]
            stratified: bool = false,

            /// Draw rows until no 95 % interval of a dimension is wider than this; the extraction stops there
            #[arg(long, value_name = "WIDTH", value_parser = above_zero)]
            until: Option<f64> = None,

            /// Seed of everything random
            #[arg(long, value_name = "SEED", default_value_t = PlanSettings::default().seed)]
            seed: u64 = 0,
        }

        /// Dimensions without a store.
        #[command(next_help_heading = "Activations")]
        MiniBatchOptions {
            /// Average the dimensions over mini-batches of so many rows as they come out of the model, and keep no activations
            #[arg(long, value_name = "ROWS", value_parser = RangedU64ValueParser::<usize>::new().range(100..))]
            mini_batch: Option<usize> = None,
        }

        /// How the intrinsic dimension is estimated.
        #[command(next_help_heading = "Dimension")]
        DimensionOptions {
            /// What is done to vectors first: nothing (raw), centred (which matters for the cosine only), or whitened: unit variance
            /// in every direction
            #[arg(long, value_name = "HOW", default_value_t)]
            representation: Preprocessing = Preprocessing::Raw,

            /// Distances: euclidean, or cosine: Euclidean between vectors of unit length
            #[arg(long, value_name = "METRIC", default_value_t)]
            metric: DistanceMetric = DistanceMetric::Euclidean,

            /// TwoNN by linear fit (linear), maximum likelihood (mle) or censored maximum likelihood (censored-mle)
            #[arg(long, value_name = "METHOD", default_value_t, value_parser = word::<MethodKind>)]
            method: MethodKind = MethodKind::Linear,

            /// Share of the largest ratios that linear and censored-mle leave out
            #[arg(long, value_name = "SHARE", default_value_t = PlanSettings::default().discard)]
            discard: f64 = 0.1,

            /// Neighbours at which the dimension is estimated: 1 (the nearest and the second nearest: TwoNN), 2, 4, 8 or 16 (that one
            /// and the one of twice the number: GRIDE), or auto: the smallest from which it stays level, the same in all layers
            #[arg(long, value_name = "N", default_value_t)]
            scale: ScaleSetting = ScaleSetting(None),

            /// How to find neighbours: exact, ball-tree, kd-tree, or auto: exact, or what is fastest in a short trial where a tree may
            /// be; the answers are the same
            #[arg(long, value_name = "ENGINE", default_value_t, value_parser = word::<Engine>)]
            neighbours: Engine = Engine::Auto,
        }

        /// The rule that makes ranks of dimensions.
        #[command(next_help_heading = "Ranks")]
        RankOptions {
            /// How a difference of dimensions becomes whole: ceil, round or floor
            #[arg(long, value_name = "HOW", default_value_t, value_parser = word::<Rounding>)]
            rounding: Rounding = RankSettings::default().rounding,

            /// Added to every rank
            #[arg(long, value_name = "N", default_value_t = RankSettings::default().offset)]
            offset: usize = RankSettings::default().offset,

            /// Smallest rank
            #[arg(long, value_name = "N", default_value_t = RankSettings::default().minimum)]
            minimum_rank: usize = RankSettings::default().minimum,

            /// Largest rank
            #[arg(long, value_name = "N")]
            maximum_rank: Option<usize> = None,

            /// Most parameters the adapter may have in all
            #[arg(long, value_name = "PARAMETERS")]
            budget: Option<u64> = None,

            /// How probable it must be that the dimension rises, e.g. 0.9: where it is less, the layer gets the smallest rank
            #[arg(long, value_name = "SHARE")]
            confidence: Option<f64> = None,

            /// alpha / rank, the same for every layer
            #[arg(long, value_name = "C", default_value_t = RankSettings::default().scaling)]
            scaling: f64 = RankSettings::default().scaling,

            /// Weights to adapt: query, key, value, output, feed-forward, or all
            #[arg(long, value_name = "ROLES", value_delimiter = ',', default_value = PROJECTIONS, value_parser = projection)]
            projections: Vec<Projection> = usual_projections(),

            /// Subsamples of the rows, which show how certain a rank is; 0 for none
            #[arg(long, value_name = "N", default_value_t = RankSettings::default().subsamples, value_parser = subsamples())]
            subsamples: usize = RankSettings::default().subsamples,
        }
    }
}

/// A scale, or `auto`; in a configuration a number, or nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(try_from = "Option<usize>", into = "Option<usize>")]
pub struct ScaleSetting(pub Option<Scale>);

impl TryFrom<Option<usize>> for ScaleSetting {
    type Error = String;

    fn try_from(near: Option<usize>) -> Result<Self, String> {
        let Some(near) = near else { return Ok(Self(None)) };
        let known = Scale::ALL.into_iter().find(|scale| scale.near() == near);
        known.map(|scale| Self(Some(scale))).ok_or_else(|| format!("is {near}; give 1, 2, 4, 8 or 16, or leave it out"))
    }
}

impl From<ScaleSetting> for Option<usize> {
    fn from(choice: ScaleSetting) -> Self {
        choice.0.map(Scale::near)
    }
}

impl FromStr for ScaleSetting {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "auto" {
            return Ok(Self(None));
        }
        text.parse().map(|scale| Self(Some(scale))).map_err(|cure: String| format!("{cure}, or auto"))
    }
}

impl fmt::Display for ScaleSetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(scale) => write!(f, "{}", scale.near()),
            None => f.write_str("auto"),
        }
    }
}

/// The weights of a block that get adapters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Projection {
    /// The query projection.
    Query,
    /// The key projection.
    Key,
    /// The value projection.
    Value,
    /// The fused projection of queries, keys and values; the three separate names select it too.
    QueryKeyValue,
    /// The output projection of the attention.
    Output,
    /// The feed-forward layers.
    FeedForward,
    /// Every linear layer.
    All,
}

impl Projection {
    /// Name in a configuration and on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Projection::Query => "query",
            Projection::Key => "key",
            Projection::Value => "value",
            Projection::QueryKeyValue => "query-key-value",
            Projection::Output => "output",
            Projection::FeedForward => "feed-forward",
            Projection::All => "all",
        }
    }

    /// The roles of these weights.
    fn roles(self) -> &'static [Role] {
        match self {
            Projection::Query => &[Role::Query],
            Projection::Key => &[Role::Key],
            Projection::Value => &[Role::Value],
            Projection::QueryKeyValue => &[Role::QueryKeyValue],
            Projection::Output => &[Role::Output],
            Projection::FeedForward => &[Role::FeedForward],
            Projection::All => &[
                Role::Query,
                Role::Key,
                Role::Value,
                Role::QueryKeyValue,
                Role::Output,
                Role::FeedForward,
                Role::Other,
            ],
        }
    }
}

impl fmt::Display for Projection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// Default weights that get adapters.
const PROJECTIONS: &str = "query,key,value,output";

fn usual_projections() -> Vec<Projection> {
    PROJECTIONS.split(',').filter_map(|word| projection(word).ok()).collect()
}

/// Accepts the spelling of plans too: `feed_forward` is `feed-forward`.
fn projection(text: &str) -> Result<Projection, String> {
    word(&text.replace('_', "-"))
}

/// Parses a number above 0.
pub fn above_zero(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(value) if value > 0.0 && value.is_finite() => Ok(value),
        _ => Err("give a number above 0".into()),
    }
}

/// Subsamples take time, and a million show no more than a thousand.
pub fn subsamples() -> RangedU64ValueParser<usize> {
    RangedU64ValueParser::new().range(..=10_000)
}

impl PlanSettings {
    /// Settings of the dimension estimate.
    pub fn two_nn(&self) -> TwoNn {
        let method = match self.method {
            MethodKind::Linear => Method::Linear { discard: self.discard },
            MethodKind::MaximumLikelihood => Method::MaximumLikelihood,
            MethodKind::CensoredMaximumLikelihood => Method::CensoredMaximumLikelihood { discard: self.discard },
        };
        TwoNn { method, engine: self.neighbours, ..TwoNn::default() }
    }

    /// How vectors are transformed before distances are measured.
    pub fn representation(&self) -> Representation {
        Representation { preprocessing: self.representation, metric: self.metric }
    }

    /// How the tokens of a row are pooled.
    pub fn pooling(&self) -> Pooling {
        match self.pooling {
            PoolingKind::Mean => Pooling::Mean,
            PoolingKind::First => Pooling::First,
            PoolingKind::Last => Pooling::Last,
            PoolingKind::Tokens => Pooling::Tokens { per_row: self.tokens_per_text, seed: self.seed },
        }
    }

    /// How dimensions become ranks.
    pub fn rank_settings(&self) -> RankSettings {
        let mut projections: Vec<Role> =
            self.projections.iter().flat_map(|projection| projection.roles()).copied().collect();
        projections.sort_unstable();
        projections.dedup();
        RankSettings {
            rounding: self.rounding,
            offset: self.offset,
            minimum: self.minimum_rank,
            maximum: self.maximum_rank,
            scale: self.scale.0,
            confidence: self.confidence,
            budget: self.budget,
            scaling: self.scaling,
            projections,
            subsamples: self.subsamples,
            seed: self.seed,
        }
    }

    /// Rejects values that make no sense.
    ///
    /// # Errors
    /// The first such value, with its key and what to do.
    pub fn check(&self) -> Result<(), SettingError> {
        self.check_extraction()?;
        at_least("rows", self.rows.map(|n| n as u64), 50)?;
        at_least("mini_batch", self.mini_batch.map(|rows| rows as u64), 100)?;
        if let Some(until) = self.until {
            number("until", until, |v| v > 0.0, "give the widest interval, above 0, or leave it out")?;
            if self.subsamples == 0 && self.mini_batch.is_none() {
                let cure = "give some, or leave `until` out";
                return Err(SettingError::new("subsamples", "is 0, and `until` needs them".into(), cure));
            }
        }
        number("discard", self.discard, |v| (0.0..1.0).contains(&v), "give a share from 0 to below 1")?;
        if let Some(confidence) = self.confidence {
            let cure = "give a share from 0.5 to below 1, or leave it out";
            number("confidence", confidence, |v| (0.5..1.0).contains(&v), cure)?;
            if self.subsamples == 0 {
                let cure = "give some, or leave `confidence` out";
                return Err(SettingError::new("subsamples", "is 0, and `confidence` needs them".into(), cure));
            }
        }
        number("scaling", self.scaling, |v| v > 0.0, "give a number above 0")?;
        at_least("maximum_rank", self.maximum_rank.map(|n| n as u64), self.minimum_rank.max(1) as u64)?;
        at_least("budget", self.budget, 1)?;
        if self.projections.is_empty() {
            let cure = "name at least one, or leave it out";
            return Err(SettingError::new("projections", "is empty".into(), cure));
        }
        Ok(())
    }

    /// Rejects values for rows, batches and tokens of the extraction that make no sense.
    ///
    /// # Errors
    /// Those of [`PlanSettings::check`].
    pub fn check_extraction(&self) -> Result<(), SettingError> {
        at_least("tokens_per_text", Some(self.tokens_per_text as u64), 1)?;
        at_least("rows", self.rows.map(|n| n as u64), 1)?;
        if self.stratified && self.rows.is_none() {
            let cure = "give `rows`, or leave it out";
            return Err(SettingError::new("stratified", "needs a number of rows".into(), cure));
        }
        at_least("batch_tokens", self.batch_tokens.map(|tokens| tokens as u64), 1)?;
        Ok(())
    }
}
