//! The learning rate of every step, as given by transformers' `get_linear_schedule_with_warmup`,
//! `get_cosine_schedule_with_warmup` and `get_constant_schedule_with_warmup`.

use crate::settings::{Schedule, TrainSettings};

/// The learning rate of every optimizer step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LearningRate {
    highest: f64,
    schedule: Schedule,
    warm_up: u64,
    total: u64,
}

impl LearningRate {
    /// The schedule of a run of `total` optimizer steps.
    pub fn new(settings: &TrainSettings, total: u64) -> Self {
        LearningRate {
            highest: settings.learning_rate,
            schedule: settings.schedule,
            warm_up: settings.warmup(total),
            total,
        }
    }

    /// The learning rate of step `step`, counted from 0.
    pub fn at(&self, step: u64) -> f64 {
        self.highest * self.factor(step)
    }

    fn factor(&self, step: u64) -> f64 {
        if step < self.warm_up {
            return step as f64 / self.warm_up.max(1) as f64;
        }
        let rest = self.total.saturating_sub(self.warm_up).max(1) as f64;
        match self.schedule {
            Schedule::Constant => 1.0,
            Schedule::Linear => self.total.saturating_sub(step) as f64 / rest,
            Schedule::Cosine => {
                let progress = (step - self.warm_up) as f64 / rest;
                (0.5 * (1.0 + (std::f64::consts::PI * progress).cos())).max(0.0)
            }
        }
    }
}
