//! Progress on a terminal (bars with the time left) and elsewhere (a plain line at intervals).

use std::io::{IsTerminal, Write};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{HumanDuration, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use crate::progress::{CancelFlag, Event, Observer};

use super::plain::plain_line;
use super::style::{Style, paint, wants_colour};

/// Pause between two plain lines of one stage.
const PAUSE: Duration = Duration::from_secs(10);

/// Draws progress on stderr.
pub(crate) struct Terminal {
    display: Display,
    colour: bool,
    cancel: CancelFlag,
    stages: Mutex<Vec<Stage>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Display {
    Bars,
    Lines,
    Quiet,
}

struct Stage {
    name: String,
    unit: String,
    total: Option<u64>,
    at_start: u64,
    done: u64,
    started: Instant,
    last_line: Instant,
    bar: Option<ProgressBar>,
}

impl Terminal {
    /// `quiet` shows warnings only; `plain` forces lines where bars would mix with log lines.
    pub(crate) fn new(quiet: bool, plain: bool) -> Self {
        let stderr = std::io::stderr();
        let display = match (quiet, stderr.is_terminal() && !plain) {
            (true, _) => Display::Quiet,
            (false, true) => Display::Bars,
            (false, false) => Display::Lines,
        };
        Self { display, colour: wants_colour(&stderr), cancel: CancelFlag::default(), stages: Mutex::default() }
    }

    /// The flag that Ctrl-C sets.
    pub(crate) fn cancel_flag(&self) -> &CancelFlag {
        &self.cancel
    }

    /// Removes all bars, for instance before a result or an error is printed.
    pub(crate) fn finish(&self) {
        for stage in self.stages().drain(..) {
            if let Some(bar) = stage.bar {
                bar.finish_and_clear();
            }
        }
    }

    fn stages(&self) -> MutexGuard<'_, Vec<Stage>> {
        self.stages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn begin(&self, name: &str, total: Option<u64>, done: u64, unit: &str) {
        let (name, unit) = (&*plain_line(name), &*plain_line(unit));
        let now = Instant::now();
        let bar = (self.display == Display::Bars).then(|| bar(name, total, done, unit));
        if self.display == Display::Lines && done > 0 {
            self.line(&format!("{name}: resuming after {done} {unit}"));
        }
        self.stages().push(Stage {
            name: name.to_owned(),
            unit: unit.to_owned(),
            total,
            at_start: done,
            done,
            started: now,
            last_line: now,
            bar,
        });
    }

    fn advance(&self, done: u64, detail: &str) {
        let mut stages = self.stages();
        let Some(stage) = stages.last_mut() else { return };
        stage.done = done;
        if let Some(bar) = &stage.bar {
            bar.set_position(done);
            bar.set_message(plain_line(detail).into_owned());
        } else if self.display == Display::Lines && stage.last_line.elapsed() >= PAUSE {
            stage.last_line = Instant::now();
            let line = stage.line(&plain_line(detail));
            drop(stages);
            self.line(&line);
        }
    }

    fn end(&self) {
        let Some(stage) = self.stages().pop() else { return };
        if let Some(bar) = &stage.bar {
            bar.finish_and_clear();
        }
        if self.display != Display::Quiet {
            self.line(&stage.last_words());
        }
    }

    fn say(&self, label: &str, style: Style, text: &str) {
        self.line(&format!("{} {}", paint(label, style, self.colour), plain_line(text)));
    }

    /// Writes a line above the bars.
    fn line(&self, text: &str) {
        let write = || {
            // If stderr is closed, nobody is left to tell.
            let _ = writeln!(std::io::stderr(), "{text}");
        };
        match self.stages().last().and_then(|stage| stage.bar.clone()) {
            Some(bar) => bar.suspend(write),
            None => write(),
        }
    }
}

impl Observer for Terminal {
    fn observe(&self, event: Event<'_>) {
        match event {
            Event::Begin { stage, total, done, unit } => self.begin(stage, total, done, unit),
            Event::Advance { done, detail } => self.advance(done, detail),
            Event::End => self.end(),
            Event::Notice(text) if self.display != Display::Quiet => self.say("note:", Style::Notice, text),
            Event::Notice(_) => {}
            Event::Warning(text) => self.say("warning:", Style::Warning, text),
        }
    }

    fn is_cancelled(&self) -> bool {
        self.cancel.is_raised()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Stage {
    /// Units per second, counting only those that this run has processed.
    fn speed(&self) -> f64 {
        let seconds = self.started.elapsed().as_secs_f64();
        if seconds > 0.0 { self.done.saturating_sub(self.at_start) as f64 / seconds } else { 0.0 }
    }

    fn line(&self, detail: &str) -> String {
        let Self { name, unit, done, .. } = self;
        let mut line = match self.total {
            Some(total) if total > 0 => {
                let percent = 100.0 * *done as f64 / total as f64;
                format!("{name}: {done} of {total} {unit} ({percent:.0} %)")
            }
            _ => format!("{name}: {done} {unit}"),
        };
        let speed = self.speed();
        if speed > 0.0 {
            line += &format!(", {}", rate(speed, unit));
            if let Some(left) = self.total.and_then(|total| total.checked_sub(*done)).filter(|left| *left > 0) {
                line += &format!(", {} left", HumanDuration(Duration::from_secs_f64(left as f64 / speed)));
            }
        }
        if detail.is_empty() { line } else { format!("{line}, {detail}") }
    }

    fn last_words(&self) -> String {
        let Self { name, unit, done, at_start, started, .. } = self;
        let seconds = started.elapsed().as_secs_f64();
        let fresh = done.saturating_sub(*at_start);
        let mut line = format!("{name}: {done} {unit} in {seconds:.1} s");
        if fresh > 0 && seconds >= 0.1 {
            line += &format!(" ({})", rate(self.speed(), unit));
        }
        line
    }
}

/// A speed in units per second; where a unit takes longer than that, in seconds per unit.
fn rate(speed: f64, unit: &str) -> String {
    let short = |value: f64| format!("{value:.*}", if value >= 100.0 { 0 } else { 1 });
    match speed {
        speed if speed > 0.0 && speed < 1.0 => format!("{} s per {}", short(1.0 / speed), unit.trim_end_matches('s')),
        speed => format!("{} {unit}/s", short(speed)),
    }
}

fn bar(name: &str, total: Option<u64>, done: u64, unit: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr())
        .with_position(done)
        .with_elapsed(Duration::ZERO);
    let template = match total {
        Some(_) => "{prefix} {bar:24} {human_pos}/{human_len} {unit}, {rate}, {eta} left  {msg}",
        None => "{prefix} {spinner} {human_pos} {unit}, {elapsed}  {msg}",
    };
    let template = template.replace("{unit}", unit);
    if let Ok(style) = ProgressStyle::with_template(&template) {
        let unit = unit.to_owned();
        let style = style.with_key("rate", move |state: &ProgressState, out: &mut dyn std::fmt::Write| {
            // What cannot be written is not shown.
            let _ = out.write_str(&rate(state.per_sec(), &unit));
        });
        bar.set_style(style.progress_chars("━╸ "));
    }
    bar.set_prefix(name.to_owned());
    bar.enable_steady_tick(Duration::from_millis(120));
    bar
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stage(total: Option<u64>, at_start: u64, done: u64) -> Stage {
        let started = Instant::now() - Duration::from_secs(10);
        Stage {
            name: "reading".into(),
            unit: "rows".into(),
            total,
            at_start,
            done,
            started,
            last_line: started,
            bar: None,
        }
    }

    #[test]
    fn the_time_left_counts_only_what_this_run_did() {
        let line = stage(Some(1000), 500, 600).line("");
        assert_eq!(line, "reading: 600 of 1000 rows (60 %), 10.0 rows/s, 40 seconds left");
    }

    #[test]
    fn without_a_total_there_is_no_time_left() {
        assert_eq!(stage(None, 0, 5000).line("loss 0.4"), "reading: 5000 rows, 500 rows/s, loss 0.4");
    }

    #[test]
    fn slow_units_are_counted_in_seconds() {
        let line = stage(Some(10), 0, 2).line("");
        assert_eq!(line, "reading: 2 of 10 rows (20 %), 5.0 s per row, 40 seconds left");
        assert_eq!((rate(0.0, "steps"), rate(0.001, "steps")), ("0.0 steps/s".into(), "1000 s per step".into()));
    }

    #[test]
    fn an_end_without_a_beginning_is_ignored() {
        let terminal = Terminal::new(true, false);
        terminal.observe(Event::End);
        terminal.observe(Event::Advance { done: 1, detail: "" });
        assert!(!terminal.is_cancelled());
        terminal.cancel_flag().raise();
        assert!(terminal.check().is_err());
    }
}
