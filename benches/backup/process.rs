//! Programs connected by pipes without a shell, with what each of them used.

use std::{
    fs::File,
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::{Pid, WaitId, WaitIdOptions, waitid};

/// The unit of times in `/proc`: `USER_HZ`, 100 on every architecture that Rust's standard library runs on (the kernel's
/// `asm-generic/param.h`).
const TICKS_PER_SECOND: f64 = 100.0;

/// What a process used.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    /// Own processor time, user and system.
    pub cpu: Duration,
    /// The same of its children that have ended and were waited for.
    pub children_cpu: Duration,
    /// Largest resident set.
    pub peak_bytes: u64,
}

impl Usage {
    /// Two processes that run at the same time.
    pub fn and(self, other: Self) -> Self {
        Self {
            cpu: self.cpu + other.cpu,
            children_cpu: self.children_cpu + other.children_cpu,
            peak_bytes: self.peak_bytes + other.peak_bytes,
        }
    }
}

/// A running process whose memory is watched.
pub struct Watched {
    pub child: Child,
    name: String,
    ended: Arc<AtomicBool>,
    watcher: Option<JoinHandle<u64>>,
}

impl Watched {
    pub fn start(mut command: Command) -> Result<Self> {
        let name = Path::new(command.get_program()).file_name().unwrap_or_default().to_string_lossy().into_owned();
        let child = command.spawn().with_context(|| format!("cannot run {name}"))?;
        let ended = Arc::new(AtomicBool::new(false));
        let (seen, id) = (Arc::clone(&ended), child.id());
        // The kernel keeps the peak itself (`VmHWM`), but only while the process lives: the last look before its end counts.
        let watcher = std::thread::spawn(move || {
            let mut peak = 0;
            while !seen.load(Ordering::Relaxed) {
                peak = peak_bytes(id).unwrap_or(0).max(peak);
                std::thread::sleep(Duration::from_millis(10));
            }
            peak
        });
        Ok(Self { child, name, ended, watcher: Some(watcher) })
    }

    /// Processor time until now.
    pub fn so_far(&self) -> Result<Usage> {
        times(self.child.id())
    }

    /// Waits for the process to end well. What it used can be read after that: it is not reaped yet.
    pub fn wait(&mut self) -> Result<()> {
        let id = Pid::from_child(&self.child);
        waitid(WaitId::Pid(id), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT)?;
        Ok(())
    }

    pub fn finish(mut self) -> Result<Usage> {
        self.wait()?;
        let mut usage = self.so_far()?;
        self.ended.store(true, Ordering::Relaxed);
        if let Some(watcher) = self.watcher.take() {
            usage.peak_bytes = watcher.join().unwrap_or_default();
        }
        let status = self.child.wait()?;
        ensure!(status.success(), "{} failed: {status}", self.name);
        Ok(usage)
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs programs, each reading what the one before it writes; the last one's output goes to `output`, or nowhere.
pub fn pipeline(commands: Vec<Command>, input: Option<File>, output: Option<File>) -> Result<(Duration, Vec<Usage>)> {
    let last = commands.len().saturating_sub(1);
    let mut output = Some(output.map_or_else(Stdio::null, Stdio::from));
    let mut input = input.map_or_else(Stdio::null, Stdio::from);
    let mut running = Vec::new();
    let begun = Instant::now();
    for (index, mut command) in commands.into_iter().enumerate() {
        command.stdin(std::mem::replace(&mut input, Stdio::null()));
        command.stdout(if index == last { output.take().unwrap_or_else(Stdio::null) } else { Stdio::piped() });
        let mut watched = Watched::start(command)?;
        if let Some(stdout) = watched.child.stdout.take() {
            input = stdout.into();
        }
        running.push(watched);
    }
    for process in &mut running {
        process.wait()?;
    }
    let wall = begun.elapsed();
    Ok((wall, running.into_iter().map(Watched::finish).collect::<Result<_>>()?))
}

/// `VmHWM` of `/proc/PID/status`.
fn peak_bytes(id: u32) -> Option<u64> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// `utime`, `stime`, `cutime` and `cstime` of `/proc/PID/stat` (proc_pid_stat(5)).
fn times(id: u32) -> Result<Usage> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    // The name in parentheses may hold anything; what is after it does not.
    let fields: Vec<u64> = match stat.rsplit_once(')') {
        Some((_, rest)) => rest.split_whitespace().map(|field| field.parse().unwrap_or_default()).collect(),
        None => bail!("/proc/{id}/stat is not as expected"),
    };
    let ticks = |first: usize| fields.iter().skip(first).take(2).sum::<u64>() as f64;
    Ok(Usage {
        cpu: Duration::from_secs_f64(ticks(11) / TICKS_PER_SECOND),
        children_cpu: Duration::from_secs_f64(ticks(13) / TICKS_PER_SECOND),
        peak_bytes: 0,
    })
}
