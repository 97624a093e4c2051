//! What the demonstration shows: numbered steps on standard output, and a moving bar on standard error when that is a terminal.

use std::{
    io::{IsTerminal, stderr, stdout},
    time::{Duration, Instant},
};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressStyle};

use super::client::{Event, Job};
use crate::report;

/// Longest list that is shown in full.
const LONGEST_LIST: usize = 14;

/// Numbers the steps.
#[derive(Default)]
pub struct Screen {
    step: u32,
}

impl Screen {
    /// Begins the next step.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn step(&mut self, title: &str) -> anyhow::Result<()> {
        self.step += 1;
        let (bold, plain) = if stdout().is_terminal() { ("\x1b[1m", "\x1b[0m") } else { ("", "") };
        report::print(&format!("\n{bold}{}. {title}{plain}\n", self.step))
    }

    /// A line below the step.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn line(&self, text: &str) -> anyhow::Result<()> {
        report::print(&format!("   {text}\n"))
    }

    /// Lines with a mark before each; of a long list the beginning and a count.
    ///
    /// # Errors
    /// Standard output is closed.
    pub fn list(&self, mark: char, lines: &[String]) -> anyhow::Result<()> {
        let shown = if lines.len() > LONGEST_LIST { LONGEST_LIST - 1 } else { lines.len() };
        for line in &lines[..shown] {
            self.line(&format!("  {mark} {}", report::one_line(line)))?;
        }
        if shown < lines.len() {
            self.line(&format!("  {mark} … and {} more", lines.len() - shown))?;
        }
        Ok(())
    }
}

/// Shows a job as it goes on: a line for each stage, and on a terminal a bar.
pub struct JobView {
    bar: Option<ProgressBar>,
    stage: String,
    begun: Instant,
}

impl JobView {
    pub fn new() -> Self {
        let bar = stderr().is_terminal().then(|| {
            let bar = ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { bar, stage: String::new(), begun: Instant::now() }
    }

    /// Shows what happened.
    pub fn show(&mut self, event: Event<'_>) {
        match event {
            Event::Changed(job) => self.changed(job),
            Event::Line(line) if line.level == "info" => {}
            Event::Line(line) => {
                self.print(&format!("              {}: {}", line.level, report::one_line(&line.message)))
            }
        }
    }

    fn print(&self, line: &str) {
        // Whether anybody still reads is found out by the next step.
        let print = || drop(report::print(&format!("{line}\n")));
        match &self.bar {
            Some(bar) => bar.suspend(print),
            None => print(),
        }
    }

    fn changed(&mut self, job: &Job) {
        let progress = job.progress.clone().unwrap_or_default();
        let stage = match job.status.as_str() {
            "pending" => "waiting for a worker".to_owned(),
            "completed" | "failed" | "cancelled" => job.status.clone(),
            _ if progress.stage.is_empty() => "at work".to_owned(),
            _ => report::one_line(&progress.stage).replace('_', " "),
        };
        if stage != self.stage {
            let bytes = match (progress.content_bytes, progress.stored_bytes) {
                (0, 0) => String::new(),
                // The whole size is told by the step.
                _ if job.is_final() => String::new(),
                (0, stored) => format!("  {}", bytes(stored)),
                (content, _) => format!("  {}", bytes(content)),
            };
            self.print(&format!("     {:>5.1} s  {stage}{bytes}", self.begun.elapsed().as_secs_f64()));
            self.stage = stage;
        }
        let Some(bar) = &self.bar else { return };
        bar.set_message(self.stage.clone());
        let at = progress.content_bytes.max(progress.stored_bytes);
        match progress.total_bytes.filter(|total| *total > 0) {
            Some(total) => {
                bar.set_style(style("{spinner} [{bar:30}] {msg}: {bytes} of about {total_bytes}"));
                bar.set_length(total.max(at));
            }
            None => bar.set_style(style("{spinner} {msg}: {bytes}")),
        }
        bar.set_position(at);
    }

    /// Clears the bar; the time it took.
    pub fn finish(self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.begun.elapsed()
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_spinner())
}

/// `1.5 MiB`.
pub fn bytes(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// `12,345`.
pub fn count(number: impl TryInto<u64>) -> String {
    HumanCount(number.try_into().unwrap_or(0)).to_string()
}

/// `0.8 s`.
pub fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
